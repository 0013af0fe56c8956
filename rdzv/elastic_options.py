"""What a user may set of the elastic rendezvous: time-outs, numbers of nodes, hints. Values, checked as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING

from rdzv.config import refuse_unknown_options
from rdzv.core.documents import NAME_CHARS_MAX, Settings
from rdzv.errors import ConfigError
from rdzv.hosting import HOST_OPTIONS, SECONDS_MAX, HostOptions
from rdzv.store.base import to_seconds

if TYPE_CHECKING:
    from rdzv.parameters import RendezvousParameters
    from rdzv.store.base import Timeout

_TIMEOUT_OPTIONS = ("join_timeout", "last_call_timeout", "close_timeout", "heartbeat_timeout")
OPTIONS = (
    *_TIMEOUT_OPTIONS,
    "heartbeat",  # upstream's documented name for heartbeat_timeout
    "keep_alive_interval",
    "keep_alive_max_attempt",
    "rank",
    "topology",
    "reopen",
    "timeout",  # upstream's launcher sets it for every backend, and none of the elastic ones has a use for it
)
RUN_ID_BYTES_MAX = 4096
_DEFAULTS_S = {"join": 600, "last_call": 30, "close": 30, "heartbeat": 5}  # of `RendezvousTimeout`


@dataclass(frozen=True, slots=True, init=False)
class RendezvousTimeout:
    """The time-outs of an elastic rendezvous.

    Attributes:
        join: For how long a node waits for a round to be complete (default 600 s).
        last_call: For how long, once there are enough nodes, each further one is waited for (default 30 s). Every
            arrival gives as much time again, until four times as long or ``join`` has passed.
        close: For how long to try to close the job (default 30 s).
        heartbeat: For how long the store may leave one request unanswered (default 5 s, or less if a node is dead
            before that).
        is_heartbeat_given: Whether ``heartbeat`` is not the default.
    """

    join: timedelta
    last_call: timedelta
    close: timedelta
    heartbeat: timedelta
    is_heartbeat_given: bool

    def __init__(
        self,
        join: Timeout | None = None,
        last_call: Timeout | None = None,
        close: Timeout | None = None,
        heartbeat: Timeout | None = None,
    ) -> None:
        """Time-outs, as timedelta or in seconds; those that are not given have the defaults.

        Raises:
            TypeError: One is neither.
            ValueError: One is not positive.
        """
        given = {"join": join, "last_call": last_call, "close": close, "heartbeat": heartbeat}
        for name, timeout in given.items():
            shown = timeout if isinstance(timeout, timedelta) else f"{timeout} s"
            try:
                value = timedelta(seconds=_DEFAULTS_S[name] if timeout is None else to_seconds(timeout))
            except TypeError as error:
                raise TypeError(f"The {name} timeout ({timeout!r}) is none: {error}.") from None
            except ValueError:
                value = timedelta(0)
            if value <= timedelta(0):  # upstream's tests pin the text, for a timedelta
                raise ValueError(f"The {name} timeout ({shown}) must be positive.")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "is_heartbeat_given", heartbeat is not None)

    def heartbeat_within(self, bound: timedelta) -> timedelta:
        """``heartbeat``; where it was not given, no longer than a node may be silent."""
        return self.heartbeat if self.is_heartbeat_given else min(self.heartbeat, bound)


@dataclass(frozen=True, slots=True)
class RendezvousSettings:
    """What all nodes of an elastic rendezvous must have in common.

    Attributes:
        run_id: The job's name.
        min_nodes: The fewest nodes of a round.
        max_nodes: The most.
        timeout: The time-outs.
        keep_alive_interval: How often a node shows that it lives, at the least.
        keep_alive_max_attempt: How many intervals without a sign of life make it a dead one.
    """

    run_id: str
    min_nodes: int
    max_nodes: int
    timeout: RendezvousTimeout
    keep_alive_interval: timedelta
    keep_alive_max_attempt: int

    @classmethod
    def of(
        cls,
        run_id: str,
        min_nodes: int,
        max_nodes: int,
        timeout: RendezvousTimeout | None,
        keep_alive_interval: int,
        keep_alive_max_attempt: int,
    ) -> RendezvousSettings:
        """Settings from plain values; for what they mean see `rdzv.elastic.DynamicRendezvousHandler.from_backend`.

        Raises:
            ValueError: A number is out of range, or two of them contradict each other.
        """
        if min_nodes < 1:  # upstream's tests pin these two texts
            raise ValueError(f"The minimum number of nodes ({min_nodes}) must be greater than zero.")
        if max_nodes < min_nodes:
            raise ValueError(
                f"The maximum number of nodes ({max_nodes}) must be greater than or equal to the minimum number of "
                f"nodes ({min_nodes})."
            )
        run_id_bytes = len(f"{run_id}".encode())
        if run_id_bytes > RUN_ID_BYTES_MAX:  # it is a part of every key
            raise ValueError(f"The run id must have at most {RUN_ID_BYTES_MAX} bytes, not {run_id_bytes}.")
        settings = cls(
            run_id,
            min_nodes,
            max_nodes,
            timeout or RendezvousTimeout(),
            _as_time(keep_alive_interval),
            keep_alive_max_attempt,
        )
        settings.common()
        return settings

    @classmethod
    def parse(cls, params: RendezvousParameters) -> RendezvousSettings:
        """Settings from parameters.

        Raises:
            ValueError: An option is malformed or out of range, or two of them contradict each other.
        """
        seconds = {name.removesuffix("_timeout"): params.get_as_int(name) for name in _TIMEOUT_OPTIONS}
        if seconds["heartbeat"] is None:
            seconds["heartbeat"] = params.get_as_int("heartbeat")
        given = {name: min(value, SECONDS_MAX + 1) for name, value in seconds.items() if value is not None}
        return cls.of(
            params.run_id,
            params.min_nodes,
            params.max_nodes,
            RendezvousTimeout(**given),
            params.get_as_int("keep_alive_interval", 5) or 0,
            params.get_as_int("keep_alive_max_attempt", 3) or 0,
        )

    def common(self) -> Settings:
        """The same, as the nodes tell each other.

        Raises:
            ValueError: Two of them contradict each other.
        """
        attempts = max(1, min(self.keep_alive_max_attempt, SECONDS_MAX))
        timeout, bound = self.timeout, self.keep_alive_interval * attempts
        settings = Settings(
            self.min_nodes,
            self.max_nodes,
            timeout.join.total_seconds(),
            timeout.last_call.total_seconds(),
            timeout.close.total_seconds(),
            timeout.heartbeat_within(bound).total_seconds(),
            self.keep_alive_interval.total_seconds(),
            self.keep_alive_max_attempt,
        )
        broken = _contradictions(settings)
        if broken:
            raise ValueError("the time-outs of the rendezvous cannot hold together: " + "; ".join(broken))
        return settings


def _as_time(seconds: float) -> timedelta:
    """A time of so many seconds; what is too long for anything is still too long then, and not too long for Python."""
    return timedelta(seconds=min(seconds, SECONDS_MAX + 1))


def _contradictions(settings: Settings) -> list[str]:
    """What is wrong with the numbers, each broken relation in words."""
    broken = []
    bound = f"keep_alive_interval times keep_alive_max_attempt ({settings.bound_s:g} s)"
    if not settings.keep_alive_interval_s > 0:
        broken.append(f"keep_alive_interval ({settings.keep_alive_interval_s:g} s) must be positive")
    if settings.keep_alive_max_attempt < 1:
        broken.append(f"keep_alive_max_attempt ({settings.keep_alive_max_attempt}) must be at least 1")
    if settings.heartbeat_s > settings.bound_s > 0:
        why = "or a node that waits for one answer would be taken for dead"
        broken.append(f"heartbeat ({settings.heartbeat_s:g} s) must not be more than {bound}, {why}")
    if max(settings.join_s, settings.last_call_s, settings.close_s, settings.bound_s) > SECONDS_MAX:
        broken.append(f"no time can be more than {SECONDS_MAX} s")
    return broken


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticOptions:
    """What is one node's own.

    Raises:
        ValueError: ``local_addr`` or ``topology`` has more than 255 characters, or the rank is negative.

    Attributes:
        local_addr: Where the other nodes reach it; empty for the address from which it reaches the store.
        rank: The rank that it asks for (option ``rank``), before all nodes that ask for none; two nodes must not ask
            for the same.
        topology: Where it stands (option ``topology``), such as ``rack2/node7``: nodes that say so stand first, in
            natural order of this text.
        reopen: Whether to open the job again if it was closed before this node came (option ``reopen``).
        host: How to host a store (options of `rdzv.hosting`): the one of the round that this node serves as rank 0, and
            with the backend ``c10d`` the job's.
        owns_store: Whether `DynamicRendezvousHandler.shutdown` closes the job's store.
    """

    local_addr: str = ""
    rank: int | None = None
    topology: str = ""
    reopen: bool = False
    host: HostOptions = field(default_factory=HostOptions)
    owns_store: bool = False

    def __post_init__(self) -> None:
        for name in ("local_addr", "topology"):
            size = len(getattr(self, name))
            if size > NAME_CHARS_MAX:
                raise ValueError(f"{name!r} can have {NAME_CHARS_MAX} characters at the most, not {size}")
        if self.rank is not None and self.rank < 0:
            raise ValueError(f"the option 'rank' must be 0 or more, not {self.rank}")

    @classmethod
    def parse(cls, params: RendezvousParameters) -> ElasticOptions:
        """Options from parameters.

        Raises:
            ValueError: One is malformed or out of range.
        """
        return cls(
            local_addr=params.local_addr or "",
            rank=params.get_as_int("rank"),
            topology=str(params.get("topology") or ""),
            reopen=bool(params.get_as_bool("reopen", default=False)),
            host=HostOptions.parse(params),
        )


def check_options(params: RendezvousParameters, backend: str) -> None:
    """Refuse an option that nobody knows; of those that may be a foreign backend's own, what looks mistyped for ours.

    Raises:
        ConfigError: Code ``"key-unknown"``, for the first unknown option.
    """
    from rdzv.c10d import BACKEND_OPTIONS

    ours = {*OPTIONS, *HOST_OPTIONS}
    if backend == "c10d":
        refuse_unknown_options(params.config, {*ours, *BACKEND_OPTIONS}, backend)
        return
    for key in params.config:
        near = get_close_matches(key, ours, n=1, cutoff=0.85)
        if key not in ours and near:
            problem = f"backend {backend!r} has no such option"
            raise ConfigError(problem, code="key-unknown", text=key, hint=f"did you mean {near[0]}?")
