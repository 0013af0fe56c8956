"""What must hold, as judgements that any test can pass, whatever ran it.

Of a run, whichever arm ran it: `history` is what was seen, `invariants` judges it. Nothing there knows of processes,
sockets or clocks, so the same judgement serves real ranks and virtual ones; `rounds` does it for the nodes of an
elastic job. Of a store: `store` puts it through its paces, and `linearizable` judges what many clients of it saw, with
`models` of what each call means. Of a backend of the elastic rendezvous, ours or a user's: `backend`.
"""
