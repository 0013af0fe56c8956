"""What happens to a job's nodes, for people and for programs: each change of state is one event, with its reason.

Every event is a line of a logger, ``rdzv.elastic`` or ``rdzv.static``. If the environment variable ``RDZV_EVENTS``
names a file, it is also one line of JSON there: ``at`` (UTC, ISO 8601), ``event``, ``run_id``, ``by`` (the node that
tells), its ``pid``, and the event's own facts, such as ``round``, ``node`` (whom it is about) and ``why``. Many
processes may write to one file. A static handler looks for the variable when it is made, an elastic one each time.
"""

from __future__ import annotations

import json
import logging
import os
import time

VARIABLE = "RDZV_EVENTS"
USUAL = logging.INFO  # the level of events that are no trouble

logger = logging.getLogger("rdzv.elastic")
static_logger = logging.getLogger("rdzv.static")

_GRAVE = frozenset({"end", "evicted", "garbage", "gone", "store lost", "closed"})
_IN_ORDER = frozenset({"left", "next"})  # ends of a round that somebody wanted


def emit(event: str, run_id: str, by: str, log: logging.Logger = logger, /, **facts: object) -> None:
    """Tell one event. A file that cannot be written costs a line in the log, and nothing else."""
    level = logging.WARNING if event in _GRAVE and facts.get("kind") not in _IN_ORDER else USUAL
    if log.isEnabledFor(level):
        details = ", ".join(f"{name} {value}" for name, value in facts.items() if name != "why")
        why = f": {facts['why']}" if "why" in facts else ""
        log.log(level, "run %r, %s: %s (%s)%s", run_id, by, event, details, why)
    path = os.environ.get(VARIABLE)
    if not path:
        return
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)  # without datetime, which takes long to load
    at = time.strftime(f"%Y-%m-%dT%H:%M:%S.{nanoseconds // 1000:06d}+00:00", time.gmtime(seconds))
    line = {"at": at, "event": event, "run_id": run_id, "by": by, "pid": os.getpid(), **facts}
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, json.dumps(line, default=str).encode() + b"\n")  # one write: lines of two writers do not mix
        finally:
            os.close(fd)
    except OSError as error:
        log.warning("the event could not be written to %s, which %s names: %s", path, VARIABLE, error.strerror)
