"""Benches: this library side by side with what a user would pick instead, measured in one run.

Where things are::

    cli          the commands ``rdzv-sim bench ...``
    store        the bench of the store: what is measured, in which order, and what comes of it
    throughput   operations per second of many clients, contender beside contender
    results      what that bench is asked for, and what it found
    stats        ratios of paired rounds, and how sure they are
    tables       its results for people
    join         the bench of the elastic join, by the number of nodes
    join_results what that bench is asked for, what exactly is counted, and what was found
    join_table   its results for people
    screen       how all results look
    helper       a process of the bench: a fresh interpreter that answers questions
    host         the helper that hosts a server, and computes beside it if told to
    pool         the helper whose forks are clients, one process each
    crowd        the helper that is very many clients at once, on bare sockets
    crew         the helper whose threads are nodes of an elastic job
    tally        the helper that serves a store and counts what each node asks
    virtual      the helper in which very many nodes join in virtual time
    machine      what a process uses: processor time and memory
    torch_store  torch's store; this file and the next are the only ones of this package that import torch
    torch_join   torch's elastic rendezvous

All processes but the clients are fresh interpreters, so nothing that was loaded for one contender weighs on another.
"""
