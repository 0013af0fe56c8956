"""What must hold of a run, whichever arm ran it: `history` is what was seen, `invariants` judges it.

Nothing here knows of processes, sockets or clocks, so the same judgement serves real ranks and virtual ones.
"""
