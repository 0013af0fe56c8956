"""Benches: this library side by side with what a user would pick instead, measured in one run.

Where things are::

    cli          the commands ``rdzv-sim bench ...``
    store        the bench of the store: what is measured, in which order, and what comes of it
    throughput   operations per second of many clients, contender beside contender
    store_results  what that bench is asked for, and what it found
    store_table  its results for people
    stats        ratios of paired rounds, and how sure they are
    join         the bench of the elastic join, by the number of nodes
    join_results what that bench is asked for, what exactly is counted, and what was found
    join_table   its results for people
    spawn        the bench of the process arm: ranks from nothing to met and gone, and what failures leave behind
    spawn_results  what that bench is asked for, what exactly is timed, and what was found
    spawn_contenders  who starts ranks: ours, the two below, mpiexec with the program ``spawn_barrier.c``, torch
    forks        the least that ranks can be: forks that do nothing but meet, by bare sockets or by the library
    spawn_table  its results for people
    storm        the helper that runs scenarios under random faults
    virtual      the bench of the virtual arm: rates, and joins by the number of nodes
    virtual_results  what that bench is asked for, what exactly is measured, and what was found
    virtual_table  its results for people
    screen       how all results look
    helper       a process of the bench: a fresh interpreter that answers questions
    host         the helper that hosts a server, and computes beside it if told to
    pool         the helper whose forks are clients, one process each
    crowd        the helper that is very many clients at once, on bare sockets
    crew         the helper whose threads are nodes of an elastic job
    tally        the helper that serves a store and counts what each node asks
    virtual_helpers  its helpers, and one of the join's: very many nodes join there, and how much happens in a second
    virtual_messages  the same messages on the kernel and on simpy; the only file that imports simpy
    machine      what a process uses: processor time and memory
    torch_store  torch's store; this file and the next two are the only ones of this package that import torch
    torch_join   torch's elastic rendezvous
    torch_spawn  a rank that meets by torch's static one

All processes but the clients and those forks are fresh interpreters, so nothing that was loaded for one contender
weighs on another.
"""
