"""The same message passing twice: on our kernel, and on simpy, the usual library for such simulations.

Actors stand in a ring. Each takes a message from its mailbox and sends it on to a neighbour, where it arrives a little
later; some messages are always under way. One that has arrived is one event. An actor is a generator on both sides;
simpy's mailboxes are its stores, and a message travels as a timeout, which is its quickest way to let something happen
later. This is the only file that imports simpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.virtual.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ACTORS, STRIDE, TRAVEL_NS = 200, 7, 1000
MESSAGE = bytes(40)


def over_kernel(messages: int) -> Callable[[], object]:
    """Lets so many messages arrive on our kernel."""
    kernel, left = Kernel(), messages
    call_at = kernel.call_at

    def actor(number: int) -> Generator[None, bytes, None]:
        nonlocal left
        while True:
            message = yield
            left -= 1
            if left > 0:
                call_at(kernel.now + TRAVEL_NS, post[(number + STRIDE) % ACTORS], (message,))

    actors = [actor(number) for number in range(ACTORS)]
    post = [one.send for one in actors]
    for number, one in enumerate(actors):
        next(one)
        call_at(number, post[number], (MESSAGE,))
    return kernel.run


def over_simpy(messages: int) -> Callable[[], object]:
    """Lets so many messages arrive on simpy.

    Raises:
        ImportError: It is not installed.
    """
    import simpy

    world, left = simpy.Environment(), messages
    boxes = [simpy.Store(world) for _ in range(ACTORS)]

    def actor(number: int) -> Generator[Any, Any, None]:
        nonlocal left
        box, peer = boxes[number], boxes[(number + STRIDE) % ACTORS]
        while True:
            message = yield box.get()
            left -= 1
            if left > 0:
                on_its_way: Any = world.timeout(TRAVEL_NS, message)
                on_its_way.callbacks.append(lambda event: peer.put(event.value))

    for number in range(ACTORS):
        world.process(actor(number))
        boxes[number].put(MESSAGE)
    return world.run
