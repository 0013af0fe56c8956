"""One packet per message between two processes of a run, and descriptors that travel with it.

Knows Unix sockets and `sim.process.messages`. Must not know who talks to whom.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from sim.process.messages import Message, decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKET_BYTES_MAX = 1 << 17  # well below what a socket's buffer takes by default
DESCRIPTORS_MAX = 5  # with one message


def pair() -> tuple[Channel, int]:
    """A connection: this process's end, which never blocks, and the descriptor of the end for another process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return Channel(ours), theirs.detach()


class Channel:
    """One end of a connection. Reading blocks if the socket does; sending never does, if the socket does not."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()

    @classmethod
    def of(cls, fd: int) -> Channel:
        """The channel on an inherited or received descriptor, which it owns from now on."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    @property
    def backlog(self) -> bool:
        """Whether a message still waits for the peer to read; `flush` when the socket can be written."""
        return bool(self._unsent)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message, now or when the peer has read enough.

        Args:
            message: What to say.
            fds: Descriptors to hand over; they are closed here once they are sent.

        Raises:
            OSError: The peer is gone.
        """
        packet = encode(message)
        if not fds and not self._unsent:  # as nearly always
            try:
                self._sock.send(packet)
            except BlockingIOError:
                pass
            else:
                return
        self._unsent.append((packet, fds))
        self.flush()

    def send_past(self, message: Message) -> None:
        """Send a message past those that wait: for a signal's handler, which may come at any step of `send`.

        There the message before may be sent already, and not be struck off yet: `send` would say it once more.
        """
        self._sock.send(encode(message))

    def flush(self) -> None:
        """Send what waits, as far as the peer's buffer takes it."""
        while self._unsent:
            packet, fds = self._unsent[0]
            try:
                if fds:
                    socket.send_fds(self._sock, [packet], fds)
                else:
                    self._sock.send(packet)
            except BlockingIOError:
                return
            self._unsent.popleft()
            for fd in fds:
                os.close(fd)

    def receive(self) -> Message | None:
        """The next message; ``None`` if the peer is gone.

        Raises:
            BlockingIOError: There is none yet, on a socket that does not block.
        """
        try:
            packet = self._sock.recv(PACKET_BYTES_MAX)
        except ConnectionResetError:  # the peer has left something unread; told once, and before what it has said
            return self.receive()
        return decode(packet) if packet else None

    def receive_with_fds(self) -> tuple[Message | None, list[int]]:
        """The next message and the descriptors that came with it, which are the caller's from now on."""
        try:
            packet, fds, _, _ = socket.recv_fds(self._sock, PACKET_BYTES_MAX, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # as above
            return self.receive_with_fds()
        for fd in fds:
            os.set_inheritable(fd, False)  # Python 3.10 and 3.11 drop the flag that asks for that
        return (decode(packet) if packet else None), fds

    def end(self) -> None:
        """Say that nothing more will come, and drop what has not been sent; the peer can still be heard."""
        self._drop_unsent()
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end, and the descriptors that were never sent."""
        self._drop_unsent()
        self._sock.close()

    def _drop_unsent(self) -> None:
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        self._unsent.clear()
