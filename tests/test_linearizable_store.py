"""Many clients of one real server, in threads and processes, some cut off in mid-flight: one order explains it all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

import pytest

from rdzv.store import StoreServer
from rdzv.store.host import StoreProcess
from sim.check.linearizable import NEVER, UNKNOWN, UNREPLIED, Call, contradiction, settled

ROOT = Path(__file__).parents[1]
GRACE_S = 60.0
THREADS = 3
CALLS_PER_THREAD = 300

# A process with some threads that make random calls, and say before and after each call what they do, so that nothing
# is missing if the process is killed. Either all share one store, or each has its own, which is cut off now and then.
WORKER = """
import json, os, random, socket, sys, threading, time
from rdzv.errors import DistError, DistNetworkError, StoreTimeoutError
from rdzv.store import TCPStore

port, threads, calls, name = *map(int, sys.argv[1:4]), sys.argv[4]

def say(*words):
    os.write(1, json.dumps(words).encode() + b"\\n")

def connect():
    store = TCPStore("127.0.0.1", port, timeout=30)
    store.set_timeout(0.01)
    return store

def cut(store):
    if (connection := store.client._commands) is not None:
        connection._sock.shutdown(socket.SHUT_RDWR)

def work(number):
    rng, life, store = random.Random(f"{name} {number}"), 0, shared
    client = f"{name}.{number}"
    for index in range(calls):
        if store is None:
            life += 1
            client, store = f"{name}.{number}.{life}", connect()
        if shared is None and rng.random() < 0.05:
            threading.Timer(rng.uniform(0, 0.0005), cut, [store]).start()
        value = f"{client}/{index}"
        kind = rng.choice(["value", "value", "number", "queue"])
        key = f"{kind} {rng.randrange(2)}"
        call, *arguments = rng.choice({
            "value": [["get"], ["get"], ["set", value], ["append", "+" + value], ["check"], ["delete_key"],
                      ["compare_set", "", value], ["compare_set", value, "never"]],
            "number": [["add", rng.randrange(-5, 6)], ["get"], ["delete_key"]],
            "queue": [["queue_push", value], ["queue_pop", True], ["queue_pop", False], ["queue_len"]],
        }[kind])
        certain = call in ("set", "append", "queue_push") and rng.random() < 0.3
        say("call", client, call, key, arguments, certain, time.monotonic())
        try:
            if call == "check":
                result = store.check([key])
            else:
                result = getattr(store, call)(key, *arguments, **({"sync": True} if certain else {}))
        except DistNetworkError as error:
            say("lost", client, error.applied)
            store.close()
            store = None
        except StoreTimeoutError:
            say("lost", client, "no")
        except DistError:
            say("return", client, None, time.monotonic())
        else:
            say("return", client, result.decode() if isinstance(result, bytes) else result, time.monotonic())

threading.excepthook = lambda args: None if args.exc_type is OSError else sys.__excepthook__(*args[:3])
shared = connect() if name == "shared" else None
crew = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
for thread in crew:
    thread.start()
for thread in crew:  # once the main thread has ended, Python 3.12 starts no further one, and so no timer
    thread.join()
"""


def start(port, name):
    arguments = [sys.executable, "-c", WORKER, str(port), str(THREADS), str(CALLS_PER_THREAD), name]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=ROOT)


def recorded(output: bytes) -> list[Call]:
    """The history from what a worker said; of what it had begun when it was killed, nothing is known."""
    logs: dict[str, list[Call]] = defaultdict(list)
    for line in output.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        what, client, *words = json.loads(line)
        log = logs[client]
        if what == "call":
            name, key, arguments, certain, at = words
            arguments = [] if name == "queue_pop" else arguments
            values = tuple(word.encode() if isinstance(word, str) else word for word in arguments)
            log.append(
                Call(
                    client=client,
                    name=name,
                    key=key,
                    arguments=values,
                    result=UNKNOWN,
                    called_at=at,
                    ended_at=NEVER,
                    certain=certain,
                )
            )
        elif what == "return":
            result, at = words
            log[-1] = ended(log[-1], result.encode() if isinstance(result, str) else result, at)
        elif words == ["no"]:
            log.pop()
    return [call for log in logs.values() for call in settled(log)]


def ended(call: Call, result, at) -> Call:
    fields = {name: getattr(call, name) for name in ("client", "name", "key", "arguments", "called_at", "certain")}
    return Call(**fields, result=result, ended_at=at)


@pytest.mark.parametrize("kind", [StoreServer, StoreProcess], ids=["thread", "process"])
def test_one_order_explains_what_many_clients_saw(kind):
    """Two processes of three threads: connections of one are cut again and again; the other is killed on its way."""
    with kind() as server:
        workers = [start(server.port, "cut"), start(server.port, "shared")]
        outputs = [b"", b""]

        def collect(index):
            worker = workers[index]
            while chunk := os.read(worker.stdout.fileno(), 1 << 16):
                outputs[index] += chunk
                if index == 1 and outputs[index].count(b'["return"') > THREADS * CALLS_PER_THREAD // 2:
                    worker.send_signal(signal.SIGKILL)

        readers = [threading.Thread(target=collect, args=(index,)) for index in range(2)]
        for reader in readers:
            reader.start()
        for reader, worker in zip(readers, workers, strict=True):
            reader.join(GRACE_S)
            worker.kill()
            worker.wait()
            worker.stdout.close()
        assert [worker.returncode for worker in workers] == [0, -signal.SIGKILL]
    history = [call for output in outputs for call in recorded(output)]
    assert len(history) > THREADS * CALLS_PER_THREAD
    assert len({call.client for call in history}) > 3 * THREADS
    assert any(call.result is UNKNOWN for call in history)
    assert any(call.name in UNREPLIED and call.ended_at == NEVER for call in history)
    assert {"get", "queue_pop", *UNREPLIED, "add", "compare_set", "delete_key"} <= {call.name for call in history}
    found = contradiction(history)
    assert found is None, found
