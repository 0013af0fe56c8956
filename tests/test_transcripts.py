"""What torch's client and server said to each other, replayed without them.

``cases/store-transcripts.json`` was recorded from torch 2.13. Our server must answer torch's bytes with torch's bytes.
Our client asks for less than torch's where it can (one exchange in place of two), so its calls, not its bytes, are held
against the record.
"""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest

from rdzv import errors, net
from rdzv.core import wire
from rdzv.core.client import ClientCore
from rdzv.core.server import ServerCore
from rdzv.core.wire import FrameReader, Limits
from rdzv.errors import DistError
from rdzv.store import PrefixStore, StoreServer, TCPStore

RECORD = json.loads((Path(__file__).parent / "cases" / "store-transcripts.json").read_text("utf-8"))
SESSIONS = {session["name"]: session["calls"] for session in RECORD["sessions"]}
PROBES = {probe["name"]: probe for probe in RECORD["raw"]}

# What torch's server does here is a defect; this is what ours does: the reply to each step, and whether it stays open.
MENDED = {
    "validate_split": [("", True), ("", True)],
    "wrong_magic": [("", False)],
    "no_validate": [("", False)],
    "http_in_one_write": [("", False)],
    "two_waits": [
        ("01020304", True),
        ("", True),
        ("", True),
        ("0100000000000000", True),  # the wait for this key was replaced
        ("000100000000000000", True),
    ],
}


def in_order_of_bytes(calls):
    """Each call's number and events, as they happened: a call that hung goes on after the one that let it go."""
    let_go = {call["unblocked_by"]: number for number, call in enumerate(calls) if "unblocked_by" in call}
    for number, call in enumerate(calls):
        yield number, call["events"][: call.get("blocks_after")]
        if number in let_go:
            late = let_go[number]
            yield late, calls[late]["events"][calls[late]["blocks_after"] :]


def sorted_keys(reply: bytes) -> list:
    """A reply to LIST_KEYS whatever its order."""
    reader = FrameReader(Limits())
    reader.feed(reply)
    return sorted(reader.reply("L"))


@pytest.mark.parametrize("piece_bytes", [1 << 20, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", SESSIONS)
def test_our_server_answers_as_torchs_did(name, piece_bytes):
    """Client bytes in, and server bytes out, exactly, however they are cut."""
    core, connections, got = ServerCore(), {}, defaultdict(bytes)
    calls = SESSIONS[name]
    for number, events in in_order_of_bytes(calls):
        conn = calls[number]["conn"]
        if conn not in connections:
            connections[conn] = core.connect(f"{conn}", 0.0)
        for event in events:
            data = bytes.fromhex(event.get("hex", ""))
            if event["dir"] == "c2s":
                for start in range(0, len(data), piece_bytes):
                    core.receive(connections[conn], data[start : start + piece_bytes])
            for other, connection in connections.items():
                got[other] += bytes(connection.outgoing)
                core.sent(connection, len(connection.outgoing), 0.0)
            if event["dir"] == "s2c":
                reply = got.pop(conn)
                if calls[number].get("any_order"):
                    reply, data = sorted_keys(reply), sorted_keys(data)
                assert reply == data
                assert bool(connections[conn].closing) == event.get("eof", False)
    assert not any(got.values())


@pytest.mark.parametrize("name", SESSIONS)
def test_our_client_understands_what_torchs_server_said(name):
    """The requests of the record, made by our client's core, are the same bytes, and it takes every reply."""
    cores, asked = {}, {}
    calls = SESSIONS[name]
    for number, events in in_order_of_bytes(calls):
        conn = calls[number]["conn"]
        core = cores.setdefault(conn, ClientCore())
        reader = asked.setdefault(conn, FrameReader(Limits()))
        for event in events:
            data = bytes.fromhex(event.get("hex", ""))
            if event["dir"] == "s2c":
                core.receive(data)
                continue
            reader.feed(data)
            written = b""
            while (request := reader.request()) is not None:
                op, fields = request
                repeats = wire.REQUEST_LAYOUTS[op] in ("K", "P")
                written += core.request([(op, fields) if repeats else (op, *fields)])
            assert written == data
        if not any("eof" in event for event in events) and "blocks_after" not in calls[number]:
            assert not core.expected


@pytest.mark.parametrize("name", PROBES)
def test_our_server_answers_frames_that_torchs_client_never_sends(name):
    """As torch's does, or for its defects as `MENDED` says. It may close earlier on who would be closed anyway."""
    core = ServerCore()
    connection = core.connect(name, 0.0)
    steps = PROBES[name]["steps"]
    expected = MENDED.get(name) or [(step["reply"], step["open"]) for step in steps]
    assert PROBES[name]["quirk"] == (name in MENDED)
    ends_closed = not expected[-1][1]
    for step, (reply, is_open) in zip(steps, expected, strict=False):
        if connection.closing:
            assert not reply
            continue
        core.receive(connection, bytes.fromhex(step["send"]))
        assert connection.outgoing.hex() == reply
        core.sent(connection, len(connection.outgoing), 0.0)
        assert bool(connection.closing) != is_open or ends_closed
    assert bool(connection.closing) == ends_closed


def outcome(call: str, names: dict[str, object]):
    """What a call of a session returns, in the record's form."""
    target, _, expression = call.partition(" = ")
    try:
        result = eval(expression if target.isidentifier() else call, names)
    except DistError as error:
        return {"raises": error}
    if target.isidentifier():
        names[target] = result
        return {"returns": None}
    return {"returns": {"bytes": result.hex()} if isinstance(result, bytes) else result}


def agrees(ours, recorded) -> bool:
    if "raises" in recorded:
        return isinstance(ours.get("raises"), getattr(errors, recorded["raises"]))
    expected = recorded["returns"]
    if isinstance(expected, list) and recorded.get("any_order"):
        return sorted(ours["returns"]) == sorted(expected)
    if isinstance(expected, list) and expected and isinstance(expected[0], dict):
        return [{"bytes": value.hex()} for value in ours["returns"]] == expected
    return "returns" in ours and ours["returns"] == expected


@pytest.mark.parametrize("name", SESSIONS)
def test_our_stores_return_what_torchs_did(name):
    """Every call of every session on our client and our server: the same result, or an error of the same class."""
    names = {"TCPStore": TCPStore, "PrefixStore": PrefixStore, "timedelta": timedelta, "host": "127.0.0.1"}
    calls = SESSIONS[name]
    hung: dict[int, tuple[threading.Thread, list, dict]] = {}
    with net.bind("127.0.0.1", 0, 0.0)[0] as sock:
        names["port"] = sock.getsockname()[1]
        if "listen_fd" in calls[0]["call"]:
            names["listen_fd"], server = os.dup(sock.fileno()), None  # which the store takes over
        else:
            server = StoreServer(listen_fd=sock.fileno())
        try:
            for number, call in enumerate(calls):
                if "unblocked_by" in call:
                    results = []
                    thread = threading.Thread(
                        target=lambda call=call, results=results: results.append(outcome(call["call"], names))
                    )
                    thread.start()
                    hung[call["unblocked_by"]] = thread, results, call
                    continue
                ours = outcome(call["call"], names)
                assert agrees(ours, call), (call["call"], ours)
                if number in hung:
                    thread, results, late = hung[number]
                    thread.join(10)
                    assert results, f"{late['call']} still hangs"
                    assert agrees(results[0], late), (late["call"], results)
        finally:
            for store in names.values():
                if isinstance(store, TCPStore):
                    store.close()
            if server:
                server.stop()
