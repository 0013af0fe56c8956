"""The search for a schedule that breaks something: drawn from seeds, judged, made small, and told in one line.

Read in this order::

    draw        a scenario from a seed: who takes part, what they do, what goes wrong when
    troubles    how each kind of fault is drawn
    judge       what a run of it has shown: nothing, or a finding with its cause
    operations  what a trace says of the store's clients, for the check of linearizability
    shrink      the smallest scenario with the same cause
    token       scenario and seed in one word
    explore     many seeds on all cores
    replay      a token's run again, and its report
    calls       another search: of the store's core alone
    worlds      one of the meetings of fixed worlds
    jobs        and one of whole jobs, for what no scenario can say: `life` until its end, in which it is `watched`
    cli         ``rdzv-sim search`` and ``rdzv-sim replay``

What is drawn is an ordinary `sim.scenario.Scenario`, so what is found is a file that any arm runs. All of it depends on
the seed alone: no clock, no hash order, no chance but `sim.virtual.streams`.
"""
