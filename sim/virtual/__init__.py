"""The virtual arm: the library's own flows and store core, driven in virtual time, from one seed.

A run depends on its seed and its program alone: not on a clock, not on the machine's randomness, not on hash order, not
on the version of Python. So whatever goes wrong in it goes wrong again. Read in this order::

    kernel   what happens next: a heap of events in whole nanoseconds, and `Stalled` when nothing can happen any more
    streams  where chance comes from: a stream of its own for each name
    task     a flow of `rdzv.core` under way, as a real client would carry it out
    link     one connection between a task and the store: what travels on it, and what holds it up
    store    the real store core at its other end
    node     where tasks run: a clock of its own, what it costs, and faults
    agent    one handler of an elastic job, on such a node
    world    all of it together: what a test or a search holds in its hand

Only this package knows virtual time; nothing of `rdzv` knows of this package.
"""
