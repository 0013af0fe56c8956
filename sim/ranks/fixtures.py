"""The fixtures of a test that runs in ranks. In a rank they have values; elsewhere they say what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from rdzv.handler import RendezvousInfo
    from rdzv.store import Store


class Place(NamedTuple):
    """Where a rank is.

    Attributes:
        rank: Its number, from 0.
        info: Of the meeting of all ranks of the test.
    """

    rank: int
    info: RendezvousInfo


class Fixtures:
    """What a marked test may ask for, and what any test is told that asks for it without the mark."""

    def place(self, fixture: str) -> Place:
        """Where this rank is; nowhere, if this is no rank."""
        pytest.fail(
            f"the fixture {fixture!r} is there for tests that run in ranks: mark this one, as in @pytest.mark.ranks(2)",
            pytrace=False,
        )

    @pytest.fixture
    def rank(self) -> int:
        """Which of the test's processes this is, from 0; for tests marked with ``ranks``."""
        return self.place("rank").rank

    @pytest.fixture
    def world_size(self) -> int:
        """How many processes run the test; for tests marked with ``ranks``."""
        return self.place("world_size").info.world_size

    @pytest.fixture
    def rendezvous(self) -> RendezvousInfo:
        """Where the ranks have met: ``rank``, ``world_size``, ``store``, and its address; for marked tests."""
        return self.place("rendezvous").info

    @pytest.fixture
    def store(self) -> Store:
        """A store that all ranks of the test share, and that is empty when it begins; for marked tests."""
        return self.place("store").info.store

    @pytest.fixture
    def rank_path(self, tmp_path: Path) -> Path:
        """A directory of this rank alone, within the ``tmp_path`` that all ranks share; for marked tests."""
        path = tmp_path / f"rank{self.place('rank_path').rank}"
        path.mkdir(mode=0o700)
        return path
