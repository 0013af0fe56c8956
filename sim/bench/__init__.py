"""Benches: this library side by side with what a user would pick instead, measured in one run.

Where things are::

    cli          the commands ``rdzv-sim bench ...``
    store        the bench of the store: what is measured, in which order, and what comes of it
    throughput   operations per second of many clients, contender beside contender
    stats        ratios of paired rounds, and how sure they are
    tables       results for people
    helper       a process of the bench: a fresh interpreter that answers questions
    host         the helper that hosts a server, and computes beside it if told to
    pool         the helper whose forks are clients, one process each
    crowd        the helper that is very many clients at once, on bare sockets
    machine      what a server's process uses: processor time and memory
    torch_store  torch's store; the only file of this package that imports torch

All processes but the clients are fresh interpreters, so nothing that was loaded for one contender weighs on another.
"""
