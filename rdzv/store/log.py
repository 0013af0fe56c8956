"""The file of a FileStore: a log that torch's FileStore reads and writes as well.

The file is a log that only grows, under ``flock``. A record is a key and a value, each a u32 length (little-endian) and
that many bytes. The key is ``/`` and the user's key; ``-/`` and the user's key says that it was deleted; ``refcount/``
and ``cleanup/`` count the objects on the file, and those that have left it.

Each operation opens the file anew, locks it, reads what is new, and writes its records with one call; so a fork needs
no care. A writer that dies in the middle leaves a record cut short at the end: it was never written, so readers stop
before it, and the next writer cuts it off.

What users do with it is for `rdzv.store.file` to know.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rdzv.errors import DistError, DistStoreError, StoreTimeoutError
from rdzv.store.base import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger("rdzv.store")

USERS, LEAVERS = b"refcount/", b"cleanup/"
_LENGTH = struct.Struct("<I")
_LENGTH_MAX = 0xFFFF_FFFF
_LOCK_S_MIN = 1.0  # a lock that is held for longer than this is stuck; so a timeout of 0 may look, and wait its turn
_LOCK_PAUSE_S_MIN, _LOCK_PAUSE_S_MAX = 20e-6, 1e-3  # it is free for moments only while somebody writes a lot


def encode(key: bytes, value: bytes) -> bytes:
    """One record.

    Raises:
        DistStoreError: The key or the value is too long for the format.
    """
    if max(len(key), len(value)) > _LENGTH_MAX:
        raise DistStoreError(f"a key or value of {max(len(key), len(value))} bytes passes the limit of {_LENGTH_MAX}")
    return b"".join((_LENGTH.pack(len(key)), key, _LENGTH.pack(len(value)), value))


def decode(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """The records that are whole, each its key, its value and where it ends; one cut short at the end is left out.

    Raises:
        ValueError: What comes next is no record.
    """
    start = 0
    while len(data) >= start + 4:
        key_end = start + 4 + _LENGTH.unpack_from(data, start)[0]
        key = data[start + 4 : key_end]
        if not _may_begin(key, whole=len(data) >= key_end):
            raise ValueError("here is no record")
        if len(data) < key_end + 4:
            return
        end = key_end + 4 + _LENGTH.unpack_from(data, key_end)[0]
        if len(data) < end:
            return
        yield key, data[key_end + 4 : end], end
        start = end


def _may_begin(key: bytes, *, whole: bool) -> bool:
    """Whether a record may have that key, or one that begins so."""
    if key.startswith((b"/", b"-/")) or key in (USERS, LEAVERS):
        return True
    return not whole and any(name.startswith(key) for name in (b"-/", USERS, LEAVERS))


class Log:
    """The file and what it says, for the threads of one process.

    Attributes:
        path: Where it is.
        values: What each key of the log has, by its key in the log; up to date while `reading` or `writing`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.values: dict[bytes, bytes] = {}
        self._read_bytes = 0  # how much of the file is in `values`
        self._identity: tuple[int, int] | None = None
        self.free()
        _of_this_process.add(self)

    def free(self) -> None:
        """Make the lock between threads anew."""
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, deadline: Deadline) -> Iterator[dict[bytes, bytes]]:
        """What the file says now; nobody writes meanwhile.

        Raises:
            StoreTimeoutError: Somebody holds the lock, and keeps it.
            DistStoreError: The file is gone, or is no store's, or cannot be read.
        """
        with self._locked(os.O_RDONLY, fcntl.LOCK_SH, deadline):
            yield self.values

    @contextmanager
    def writing(self, deadline: Deadline) -> Iterator[tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]]:
        """What the file says now, and a list for the records to write in the end, all or none; nobody reads meanwhile.

        Raises:
            StoreTimeoutError: Somebody holds the lock, and keeps it.
            DistStoreError: The file is gone, or is no store's, or cannot be written.
        """
        flags = os.O_RDWR if self._identity else os.O_RDWR | os.O_CREAT
        with self._locked(flags, fcntl.LOCK_EX, deadline) as fd:
            self._cut_off(fd)
            records: list[tuple[bytes, bytes]] = []
            yield self.values, records
            if records:
                self._append(fd, records)

    @contextmanager
    def _locked(self, flags: int, lock: int, deadline: Deadline) -> Iterator[int]:
        patience = Deadline(max(deadline.left_s, _LOCK_S_MIN))
        if not self._lock.acquire(timeout=patience.timeout_s):
            raise StoreTimeoutError(f"timeout: other threads kept the store in {self.path} busy")
        _this_thread.locks += 1
        try:
            fd = self._open(flags, lock, patience)
            try:
                self._read(fd)
                yield fd
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough while a forked child has a duplicate
                os.close(fd)
        except DistError:
            raise  # some of them are OSErrors too
        except OSError as error:
            reason = error.strerror or str(error)
            if isinstance(error, FileNotFoundError):
                reason = "somebody has removed it" if self._identity else "there is no such directory"
            raise DistStoreError(f"cannot use the store in {self.path}: {reason}") from error
        finally:
            self._lock.release()
            _this_thread.locks -= 1
            while _this_thread.due and not _this_thread.locks:
                _this_thread.due.pop(0)()

    def _open(self, flags: int, lock: int, patience: Deadline) -> int:
        """A descriptor of the file that is at the path, and not one removed in the meantime, locked."""
        for _ in looks(_LOCK_PAUSE_S_MIN, _LOCK_PAUSE_S_MAX, patience):
            fd = os.open(self.path, flags, 0o644)
            try:
                fcntl.flock(fd, lock | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(self.path)):  # noqa: PTH116
                    return fd
            except (BlockingIOError, FileNotFoundError):
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise StoreTimeoutError(
            f"timeout: another process has held the lock of {self.path} for {patience.timeout_s:.1f} s",
            waited_s=patience.timeout_s,
        )

    def _read(self, fd: int) -> None:
        """Read on, as far as there are whole records."""
        status = os.fstat(fd)
        identity = status.st_dev, status.st_ino
        self._identity = self._identity or identity
        if self._identity != identity:
            raise DistStoreError(f"{self.path} is another file now than when this store began")
        if status.st_size < self._read_bytes:
            raise DistStoreError(f"{self.path} was cut from {self._read_bytes} bytes to {status.st_size}")
        if status.st_size == self._read_bytes:
            return
        start = self._read_bytes
        try:
            for key, value, end in decode(_pread(fd, start, status.st_size - start)):
                self._apply(key, value)
                self._read_bytes = start + end
        except ValueError as error:
            raise DistStoreError(f"{self.path} is no store, or is damaged: no record at {self._read_bytes}") from error
        if not self._read_bytes:
            raise DistStoreError(f"{self.path} is no store, or its first writer died: it holds no whole record")

    def _apply(self, key: bytes, value: bytes) -> None:
        if key.startswith(b"-"):
            self.values.pop(key[1:], None)
        else:
            self.values[key] = value

    def _cut_off(self, fd: int) -> None:
        """Nobody else writes now, so what is left behind the whole records belongs to a writer that died."""
        extra_bytes = os.fstat(fd).st_size - self._read_bytes
        if extra_bytes:
            logger.warning("%s ends in %d bytes of a write that was never finished: cut off", self.path, extra_bytes)
            os.ftruncate(fd, self._read_bytes)

    def _append(self, fd: int, records: list[tuple[bytes, bytes]]) -> None:
        data = b"".join([encode(key, value) for key, value in records])
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(fd, memoryview(data)[written:], self._read_bytes + written)
        except BaseException:  # no room, or an interrupt: a write is done whole or not at all
            os.ftruncate(fd, self._read_bytes)
            raise
        self._read_bytes += written
        for key, value in records:
            self._apply(key, value)


def _pread(fd: int, start: int, size: int) -> bytes:
    """That many bytes from there, or what there is of them: one call reads no more than 2 GiB."""
    data = os.pread(fd, size, start)
    while len(data) < size and (more := os.pread(fd, size - len(data), start + len(data))):
        data += more
    return data


def looks(pause_s: float, pause_s_max: float, deadline: Deadline) -> Iterator[None]:
    """Go on at once, then after ever longer pauses, and a last time at the deadline."""
    yield
    while left_s := deadline.left_s:
        time.sleep(min(left_s, pause_s))
        pause_s = min(pause_s_max, 1.5 * pause_s)
        yield


class _Thread(threading.local):
    """What a thread is in the midst of: how many logs it has locked, and what it is to do when it has none."""

    locks = 0

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []


_this_thread = _Thread()


def when_unlocked(action: Callable[[], None]) -> None:
    """Do something for which a log is locked: now, unless this thread is in the midst of using one; then right after.

    The garbage collector may call a finalizer anywhere, and that would wait for a lock of its own thread.
    """
    if _this_thread.locks:
        _this_thread.due.append(action)
    else:
        action()


_of_this_process: weakref.WeakSet[Log] = weakref.WeakSet()


def _free_in_child() -> None:
    """In a forked child: whoever held the lock is not here."""
    for log in list(_of_this_process):
        log.free()


os.register_at_fork(after_in_child=_free_in_child)
