"""The virtual arm: the library's own flows and store core, driven in virtual time, from one seed.

A run depends on its seed and its program alone: not on a clock, not on the machine's randomness, not on hash order, not
on the version of Python. So whatever goes wrong in it goes wrong again. Read in this order::

    kernel   what happens next: a heap of events in whole nanoseconds, and `Stalled` when nothing can happen any more
    streams  where chance comes from: a stream of its own for each name
    task     a flow of `rdzv.core` under way, as a real client would carry it out
    client   what a client makes of effects and answers
    connection  one connection between a task and the store: what travels on it
    link     a node's way to the store, and what can go wrong there
    store    the real store core at the other end
    node     where tasks run: a clock of its own, what it costs, and faults
    agent    one handler of an elastic job, on such a node
    world    all of it together: what a test or a search holds in its hand
    job      the nodes of one elastic job there, which do what launchers do, and the history of what they were given

And on top of that, what carries out a scenario as the process arm does::

    run      what a caller calls: a scenario and a seed in, what the process arm returns out
    stage    one run: who starts, dies, is let on, and how; faults play on it
    actor    one rank, step by step
    handlers  how it meets the others, in an elastic job and in a fixed world

Only this package knows virtual time; nothing of `rdzv` knows of this package.
"""
