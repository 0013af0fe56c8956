"""A program that is one node of a job, and obeys one command a line; what it has to say are lines of JSON.

So a test decides what happens when, and waits for what the node says rather than for a time to pass.
"""

import json
import os
import signal
import sys
import threading
import time

import rdzv

where = {}

endpoint, least, most, options = json.loads(sys.argv[1])
handler = rdzv.get_rendezvous_handler(rdzv.RendezvousParameters("c10d", endpoint, "job", least, most, **options))


def say(event, **facts):
    """One line, whole, from any thread."""
    os.write(1, json.dumps({"event": event, **facts}).encode() + b"\n")


def join():
    """Go into the next round."""
    try:
        info = handler.next_rendezvous()
    except BaseException as error:  # noqa: BLE001 -- of a signal, too
        say("failed", kind=type(error).__name__, text=str(error))
    else:
        where["store"], place = info.store, info.bootstrap_store_info
        bootstrap = [place.master_addr, place.master_port]
        say("met", rank=info.rank, size=info.world_size, round=handler.status().round, bootstrap=bootstrap)


def mark():
    """Be the first to write a key of the round, or read who was."""
    say("mark", found=where["store"].compare_set("mark", "", str(os.getpid())).decode())


def watch():
    """Say when the round should end, and how often it had to ask since it was last resumed."""
    where["asked"] = 0
    while True:
        where["asked"] += 1
        try:
            waiting = handler.num_nodes_waiting()
        except Exception as error:  # noqa: BLE001
            say("lost", kind=type(error).__name__, text=str(error))
            return
        if waiting:
            asked, status = where["asked"], handler.status()
            say("waiting", count=waiting, phase=status.phase, why=status.why, asked=asked)
            return
        time.sleep(0.02)


def fork():
    """Have a child that ends in the ordinary way."""
    pid = os.fork()
    if not pid:
        sys.exit(0)
    say("forked", status=os.waitpid(pid, 0)[1])


def misuse():
    """Have a child that leaves, and joins, by the parent's handler."""
    pid = os.fork()
    if not pid:
        well = handler.shutdown("it is not its own to leave")
        try:
            handler.next_rendezvous()
        except rdzv.RendezvousError as error:
            say("refused", well=well, kind=type(error).__name__, text=str(error))
        os._exit(0)
    os.waitpid(pid, 0)


def leave():
    """Leave for good."""
    say("left", well=handler.shutdown("it was told to"))


def status():
    """Tell who is there."""
    found = handler.status()
    say("status", phase=found.phase, why=found.why, states=[member.state for member in found.members])


def resumed(*_):
    """A call in whose midst it was held up is none that it has made since."""
    where["asked"] = 0


COMMANDS = {function.__name__: function for function in (join, mark, watch, fork, misuse, leave, status)}

signal.signal(signal.SIGCONT, resumed)
say("ready")
for line in sys.stdin:
    name, _, beside = line.strip().partition(" ")
    if beside:
        threading.Thread(target=COMMANDS[name], daemon=True).start()
    else:
        COMMANDS[name]()
