"""The search finds bugs: some that are planted in the protocol and in the store, each within a few hundred schedules.

`mutants.py` beside this file plants many more, and says of those that the search cannot find why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

SCRIPT = Path(__file__).with_name("mutants.py")
PLANTED = (
    "decide.decide: here < settings.min_nodes -> here <= settings.min_nodes",
    "decide.decide: lobby.is_any_back -> not lobby.is_any_back",
    "join.take_assignment: found(text) -> not found(text)",
    "join.heed: standing.give_up_at = now + standing.settings.join_s -> pass",
    "tend.close: head.size -> not head.size",
    "join._stand: standing.ticket == 1 -> standing.ticket != 1",
    "lead._gather: decision.seal and (not leadership.refused) -> decision.seal or not leadership.refused",
    "keyspace.Keyspace.barrier: self._park(waiter, {key}) -> pass",
    "keyspace.Keyspace.append: self.set(key, value) -> pass",
    "keyspace.Keyspace.has: key not in values and key not in queues -> key not in values or key not in queues",
)
SCHEDULES_MAX = 300
DEADLINE_S = 400.0  # half a minute is usual; what is too long for them is told by their number

pytestmark = pytest.mark.timeout(DEADLINE_S + 20)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, object]]:
    """What the search says of each."""
    file = tmp_path_factory.mktemp("mutants") / "found.json"
    command = [sys.executable, str(SCRIPT), "--jobs", "2", "--within", "20", "--json", str(file), "--only", *PLANTED]
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    return {result["name"]: result for result in json.loads(file.read_text())}


@pytest.mark.parametrize("name", PLANTED)
def test_the_search_finds_what_is_planted(name: str, found: Mapping[str, Mapping[str, object]]) -> None:
    assert found[name]["by"]
    assert int(str(found[name]["schedules"])) <= SCHEDULES_MAX
