"""One run of a scenario in virtual time: the `sim.faults.fault.Stage` on which faults play, and the ranks on it.

Ranks start a moment after they are told to, and are heard a moment after they ask; how long that is, is drawn.
Knows the world and the scenario. Must not know how a run is judged or told: that is `sim.virtual.run`.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rdzv.elastic_options import ElasticOptions, RendezvousSettings, check_options
from rdzv.endpoint import DEFAULT_PORT
from rdzv.errors import DistNetworkError
from rdzv.parameters import RendezvousParameters
from sim.check.history import Ending
from sim.check.invariants import Check
from sim.check.prompt import PLAIN, leftovers
from sim.direction import Direction
from sim.process.messages import Exited, Failed, Resolver
from sim.virtual.actor import Actor
from sim.virtual.handlers import ElasticHandler, StaticHandler
from sim.virtual.kernel import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sim.faults.fault import Link
    from sim.plan import Plan
    from sim.process.messages import Message
    from sim.virtual.handlers import Handler
    from sim.virtual.task import Task
    from sim.virtual.world import World

    Launcher = Callable[..., Any]
    OnEvent = Callable[[float, int | None, Message], object]

_START_S_MAX = 0.01  # until a process runs
_HOP_S = 0.001  # as long as a message travels at most; until it is heard that a rank asks, up to twice as long
_SIGKILL = -9


class Address(NamedTuple):
    """Where the store is, as errors name it."""

    host: str = "store"
    port: int = DEFAULT_PORT

    @property
    def text(self) -> str:
        """As one endpoint."""
        return f"{self.host}:{self.port}"


class VirtualStage(Direction):
    """One run.

    Attributes:
        plan: What to run.
        world: Where.
        actors: The ranks.
        endings: How those ended that have.
        errors: What they said about their failures.
        resolvers: How those resolve the store's name that know it by a name.
        end_at: When the run is ended, in nanoseconds.
    """

    address = Address()

    def __init__(self, plan: Plan, world: World, launcher: Launcher, on_event: OnEvent | None) -> None:
        assert plan.scenario
        super().__init__(plan.scenario)
        self.plan, self.world = plan, world
        self.actors = [Actor(self, rank) for rank in range(plan.world_size)]
        self.endings: dict[int, Ending] = {}
        self.errors: dict[int, str] = {}
        self.resolvers: dict[int, Resolver] = {}
        self.end_at = round(plan.timeout_s * SECOND)
        self.run_id = f"sim-{plan.seed}"
        self._launcher, self._on_event = launcher, on_event
        self._is_noted = on_event is not None or world.trace is not None
        self._moments = world.streams["moments"]
        self._is_static = self.scenario.backend == "static"
        self._is_hosting = self._is_stolen = False
        self._has_door = self._is_static  # then somebody listens at the store's port from the start, and all along
        if self._is_static:
            world.store.pause()

    def begin(self) -> None:
        """Strike what is there from the start, and start all but those who are late."""
        self.on_begin()
        for actor in self.actors:
            if actor.rank not in self.late:
                self.begin_late(actor.rank)

    # As ranks see it

    @property
    def deadline_s(self) -> float:
        """When ranks give up waiting, on the run's clock."""
        return self.plan.timeout_s - self.plan.margin_s

    def hear(self, rank: int, message: Message) -> None:
        """A rank says something, of which it may die. What it says last, nobody hears."""
        if rank not in self.endings:
            self.note(rank, message)
            self.on_message(rank, message)

    def ask(self, rank: int, message: Message) -> None:
        """A rank announces something, and waits. When that is heard, what it has sent to the store has arrived."""
        self.call_in(_HOP_S + _HOP_S * self._moments.fraction(), partial(self.hear, rank, message))

    def handler(self, actor: Actor) -> Handler:
        """What a rank meets the others with."""
        return StaticHandler(actor) if self._is_static else ElasticHandler(actor)

    def parameters(self, **config: Any) -> RendezvousParameters:
        """What a handler is made of: with what the scenario says last."""
        scenario, nodes = self.scenario, self.scenario.nodes
        config |= dict(scenario.options)
        return RendezvousParameters(scenario.backend, self.address.text, self.run_id, nodes.min, nodes.max, **config)

    def host_store(self) -> None:
        """Serve the store, as rank 0 of a static world does.

        Raises:
            DistNetworkError: Somebody else has its port.
        """
        if self._is_stolen:
            problem = "The server socket has failed to listen on any local network address"
            raise DistNetworkError(f"{problem} of {self.address.text}: Address already in use")
        store = self.world.store
        if store.is_dead:
            store.restart()
        store.resume()
        self._is_hosting = True

    def stop_hosting(self) -> None:
        """Serve it no more: whoever comes now waits at the door, if somebody holds that."""
        store, self._is_hosting = self.world.store, False
        store.kill()
        if self._has_door:
            store.restart()
            store.pause()

    def agent(self, node: Any) -> Any:
        """Who does the work of an elastic handler.

        Raises:
            ValueError: An option is unknown, malformed or out of range.
        """
        settings, options = self._settings
        agent = self._launcher(node, settings, self.run_id, rank=options.rank, topology=options.topology)
        agent.reopen = options.reopen
        return agent

    @cached_property
    def _settings(self) -> tuple[Any, ElasticOptions]:
        parameters = self.parameters(join_timeout=max(1, int(self.plan.timeout_s)))
        check_options(parameters, self.scenario.backend)
        return RendezvousSettings.parse(parameters).common(), ElasticOptions.parse(parameters)

    # As `sim.direction.Direction` has it

    def now(self) -> float:
        """The world's time, in seconds."""
        return self.world.now_s

    def call_in(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something later."""
        self.world.at(self.now() + seconds, action)

    def verdicts(self, endings: Sequence[Ending], duration_s: float, over_at: float) -> tuple[Check, ...]:
        """As `Direction.verdicts`, and what is left in the store."""
        checks = super().verdicts(endings, duration_s, over_at)
        if not self.scenario.expect.settled or self._lost_at:
            return checks
        is_plain = all(planned.fault.name in PLAIN for planned in self.scenario.faults)
        keys, bound_s = self.world.store.keys(), self._settings[0].bound_s
        found = list(leftovers(keys, self._facts, over_at, bound_s, is_plain=is_plain))
        return (*checks, Check("memory", not found, found[0] if found else "no keys of old rounds in the store"))

    def let_go_on(self, rank: int, *, crashes: bool) -> None:
        """Let a rank begin what it has announced; or fail there."""
        go_on = partial(self.actors[rank].go_on, crashes=crashes)
        if self.struck_at == self.now():  # what that sends over the network, such as the end of a connection, is first
            self.call_in(_HOP_S, go_on)
        else:
            go_on()

    def note(self, rank: int | None, message: Message) -> None:
        """Say something of a rank, or of all, to whoever looks on."""
        if self._is_noted:
            who = "all" if rank is None else self.actors[rank].node.name
            self.world.record(who, "says", repr(message))
            if self._on_event:
                self._on_event(self.now(), rank, message)

    # As `sim.faults.fault.Stage` has it

    def begin_late(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        self.call_in(_START_S_MAX * self._moments.fraction(), partial(self._start, self.actors[rank]))

    def kill(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        if rank not in self.endings:
            self.actors[rank].node.crash()
            self._on_exit(rank, _SIGKILL)

    def pause(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        if not self.stop(rank, is_held=True) and rank not in self.endings:
            self.actors[rank].node.pause()

    def resume(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        if not self.stop(rank, is_held=False) and rank not in self.endings:
            self.actors[rank].node.resume()

    def steal_port(self) -> None:
        """As `sim.faults.fault.Stage`."""
        self._is_stolen = True

    def return_port(self) -> None:
        """As `sim.faults.fault.Stage`; whoever waits at the door learns that nobody is there."""
        self._is_stolen = self._has_door = False
        self.world.store.kill()

    def kill_store(self) -> None:
        """As `sim.faults.fault.Stage`."""
        self.world.store.kill()

    def restart_store(self) -> None:
        """As `sim.faults.fault.Stage`."""
        self.world.store.restart()

    def name_store(self, rank: int, *, late_s: float, is_wrong: bool) -> None:
        """As `sim.faults.fault.Stage`."""
        self.resolvers[rank] = Resolver(self.now() + late_s, is_wrong)

    def shift_clock(self, rank: int, by_s: float) -> None:
        """As `sim.faults.fault.Stage`."""
        self.actors[rank].node.offset_s += by_s

    def link(self, rank: int) -> Link:
        """As `sim.faults.fault.Stage`."""
        return self.actors[rank].node.link

    # Inside

    def _start(self, actor: Actor) -> None:
        if actor.rank not in self.endings:  # it may have been killed before it ran
            actor.start(partial(self._on_done, actor))

    def _on_done(self, actor: Actor, task: Task) -> None:
        """A rank has taken all its steps, or has failed in one: its process ends."""
        if error := task.error:
            text = self.errors[actor.rank] = f"{type(error).__name__}: {error}"
            self.hear(actor.rank, Failed(text, type(error).__name__, tuple(getattr(error, "missing", ()))))
        actor.node.crash(loses=False)
        self._on_exit(actor.rank, 1 if error else 0)

    def _on_exit(self, rank: int, status: int) -> None:
        at = self.now()
        self.note(rank, Exited(rank, 0, status, at))
        self.endings[rank] = Ending(rank, status, by_itself=True, phase=self.actors[rank].phase, at=at)
        self.on_ended(rank, at)
        if rank == 0 and self._is_hosting:
            self.stop_hosting()
        kernel = self.world.kernel
        if status and not self.is_to_fail(rank):
            self.end_at = min(self.end_at, kernel.now + round(self.plan.grace_s * SECOND))
            kernel.call_at(self.end_at, kernel.stop)
        if len(self.endings) == len(self.actors):
            kernel.stop()
