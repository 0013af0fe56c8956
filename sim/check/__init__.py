"""What must hold, as judgements that any test can pass, whatever ran it.

Nothing here knows of processes or sockets, so the same judgement serves real ranks and virtual ones. Of a run::

    history       what was seen of it
    invariants    of a world that meets as a whole, time and again
    rounds        of an elastic job, whose nodes come and go; `settled`: it is whole again in time; `prompt`: it does
                  what it must in good time, and nothing without need; `stale`: nobody acts on an earlier round
    named         of a fixed world, whom errors name as missing
    expected      what a scenario expects besides

Of a store, and of a backend of the elastic rendezvous, ours or a user's::

    store         puts any store through its paces: `store_values` and `store_waits` have the checks
    linearizable  judges what many clients of one saw, with `models` of what each call means
    reference     a whole store in lists and loops, by which the core is judged
    backend       puts any backend through its contract
    trial         what checks are made of
"""
