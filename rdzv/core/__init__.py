"""The core: bytes, events and the time in; bytes, replies and the next deadline out.

No module here has a socket, a clock, a thread or a random number of its own (ruff and a test hold that), so the real
server, the real client and a simulated world can drive the very same code. Read in this order::

    wire        the protocol's frames: one table of layouts, one resumable reader for both directions
    small       requests of one key or a few that stand whole in the bytes of one read
    keyspace    what the store means: values, queues, parked waits, and who is woken when
    whole       requests of one key that are there as a whole, read at once
    server      many connections' bytes in, replies and closes out; limits and deadlines
    client      requests out, replies in, in order
    effects     what a procedure that would block asks for; each is a generator
    meeting     how a fixed world meets
    documents   what the nodes of an elastic job write for each other, and where
    decide      who is dead, when a round is sealed, who gets which rank: pure functions
    join        how a node gets into a round
    lobby       what the leader of a lobby knows
    lead        how it seals the round
    tend        what a member does while the round lasts, and how it goes; sweep: what is cleared away
    survey      who is in a round, for people
    persist     how all of these outlive a store that is away for a while
"""
