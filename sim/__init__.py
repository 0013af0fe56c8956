"""The simulator: N ranks on one machine that meet through a rendezvous, and a judgement of what they saw.

Where things are (each file says what it knows, and what it must not know)::

    process/    the process arm: real processes, real sockets, and a keeper that lets none of them outlive the run
    virtual/    the virtual arm: the library's own flows in virtual time, everything from one seed
    direction   what is the same in both arms: what strikes when, who goes on, what is noted
    plan        what a run is asked for, and what it returns
    job         an elastic job in the virtual arm: nodes that do what a launcher does
    scenario    what is to go wrong and when, for any arm; ``scenario_*``, ``fault*`` and ``triggers`` are its parts,
                ``program_scenario`` one of ranks that are programs
    ranks/      tests that run as several processes: what is behind ``@pytest.mark.ranks``
    check/      what must hold of a run, as pure functions of what was seen
    report/     a run for people, and for programs
    bench/      this library and what a user would pick instead, side by side
    strategies  property-test strategies for users
    cli         the command ``rdzv-sim``; ``telling`` is what it prints of a run, ``screen`` the console it prints to
    pytest_plugin  the mark, as pytest sees it

From Python: `sim.process.supervisor.run` carries out a `sim.plan.Plan` and needs Linux, `sim.virtual.run.run` carries
out a scenario; the command needs the extra ``sim`` as well.
"""
