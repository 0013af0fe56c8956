"""The process arm: N operating-system processes that meet for real, and a supervisor none of them outlives. Linux only.

Three kinds of process, and what passes between them::

    supervisor ──── StartJob, StartProgram ───▶ keeper      one socket; its end is the order to end everything
      (the caller)  ◀── Exited, NotStarted ────   │ fork
        ▲ │                                       ▼
        │ └────────────── Release ────────────▶ ranks       one socket each, made by the supervisor and passed on
        └─ Started, Phase, Meeting, Failed, Hung ─┘

Where things are::

    supervisor   runs a `sim.plan.Plan`: one loop over all sockets and pipes
    door         starts the keeper
    boot         how it begins, and what both load first
    keeper       the process that forks the ranks, and ends all that is below it when the supervisor goes
    rehearsal    what the keeper does once for many ranks, so that each has less to do
    descendants  the kernel's part in that: sub-reaper, parent-death signal, children
    work         what the ranks are given to do, and what must be there before: the port, or the store
    rank         the built-in job: meet, write, read, leave, wait for the others, again
    director     a scenario: who may go on, what strikes when, and what was seen
    directed_programs  likewise, where the ranks are programs
    actor        one rank of a scenario, step by step
    place        where they meet: the store's port, host and name
    relay        a rank's way there, which can be slow, cut, deaf or worse
    resolver  clock   what a rank may have in place of the machine's own
    program      any program as a rank: how a fork becomes it, and its output by lines
    stacks       where a rank hangs: its Python stack, and the key it waits for
    machine      what the machine must grant
    messages     what passes between the three, one small value each
    channel      how it passes: one packet per message, descriptors with it

How nothing survives: the keeper adopts whatever the ranks leave behind. When the supervisor closes its socket or dies,
the keeper kills until it has no children. Should the keeper be killed, the ranks die with it (a parent-death signal),
and what they have started falls to the supervisor if that is a sub-reaper, as the command ``rdzv-sim`` makes itself.
What remains: supervisor and keeper killed at the same instant. The ranks die then; what they have started does not.

This package imports nothing, so that the keeper starts with what it needs and no more.
"""
