"""The channel between two processes of a run: each message is sent once, whatever comes in between."""

from __future__ import annotations

import socket

import pytest

from sim.process.channel import Channel, pair
from sim.process.messages import Failed, Hung, Phase, Proceed

PHASE = Phase("join", 1, 2.5)
HUNG = Hung("a stack", ("a key",))


class Interrupted(socket.socket):
    """A socket behind whose first `send` a signal comes, whose handler does what a rank's does."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.handle = lambda: None

    def send(self, *arguments) -> int:
        sent = super().send(*arguments)
        handle, self.handle = self.handle, lambda: None
        handle()
        return sent


def test_what_a_signals_handler_sends_repeats_no_message_that_it_interrupts():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock = Interrupted(ours)
    channel, peer = Channel(sock), Channel(theirs)
    sock.handle = lambda: channel.send_past(HUNG)
    channel.send(PHASE)
    channel.send(Failed("an end"))
    channel.close()
    assert list(iter(peer.receive, None)) == [PHASE, HUNG, Failed("an end")]
    peer.close()


@pytest.mark.parametrize("receive", [Channel.receive, lambda channel: channel.receive_with_fds()[0]])
def test_the_last_words_of_who_leaves_a_message_unread_are_heard(receive):
    """Linux tells of that by ECONNRESET, once, and before what is there to be read."""
    channel, fd = pair()
    peer = Channel.of(fd)
    peer.send(PHASE)
    peer.send(HUNG)
    channel.send(Proceed(crash=False))
    peer.close()
    assert list(iter(lambda: receive(channel), None)) == [PHASE, HUNG]
    channel.close()
