"""The core: bytes, events and the time in; bytes, replies and the next deadline out.

No module here has a socket, a clock, a thread or a random number of its own (ruff and a test hold that), so the real
server, the real client and a simulated world can drive the very same code. Read in this order::

    wire        the protocol's frames: one table of layouts, one resumable reader for both directions
    keyspace    what the store means: values, queues, parked waits, and who is woken when
    server      many connections' bytes in, replies and closes out; limits and deadlines
    client      requests out, replies in, in order
    meeting     how a fixed world meets: a generator that yields store operations
"""
