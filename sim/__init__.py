"""The simulator: N ranks on one machine that meet through a rendezvous, and a judgement of what they saw.

Where things are (each file says what it knows, and what it must not know)::

    scenario    who takes part, what each rank does, what goes wrong when, and what is to come of it; for any arm
    scenario_text  scenario_file  program_scenario
                its small texts, itself as TOML (``scenarios/`` has those that ship), and one of ranks that are programs
    faults/     what can go wrong, and when
    plan        what a run is asked for, and what it returns
    direction   what is the same in both arms: what strikes when, who goes on, what is noted
    process/    the process arm: real processes, real sockets, and a keeper that lets none of them outlive the run
    virtual/    the virtual arm: the library's own flows in virtual time, everything from one seed
    check/      what must hold of a run, as pure functions of what was seen
    report/     a run for people, and for programs
    search/     many seeds, what they find made small, and tokens that replay it
    strategies  property-test strategies for users
    ranks/      tests that run as several processes: what is behind ``@pytest.mark.ranks``
    pytest_plugin  the mark, as pytest sees it
    bench/      this library and what a user would pick instead, side by side
    later       what a process of ours loads only if it is needed
    cli         the command ``rdzv-sim``; ``telling`` is what it prints of a run, ``screen`` the console it prints to

From Python: `sim.process.supervisor.run` carries out a `sim.plan.Plan` and needs Linux, `sim.virtual.run.run` carries
out a scenario; the command needs the extra ``sim`` as well.
"""
