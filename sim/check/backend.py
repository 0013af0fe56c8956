"""What a backend owes the elastic rendezvous, as checks that any backend can be put through: ours, or one of your own.

`rdzv.backend` says it in words. `check_backend` runs all checks; `RendezvousBackendTestMixin` makes each of them a test
of a class of yours, under pytest or unittest. A check is given a fresh backend and a way to spoil what it stores, and
raises AssertionError; it uses nothing but the public interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from sim.check.trial import Check, Checks, fails, run_all

Backend = Any  # what has the methods of `rdzv.backend.RendezvousBackend`; torch's own share no base with it


class Subject(NamedTuple):
    """Who is put through a check.

    Attributes:
        backend: A backend without a document.
        corrupt_state: Takes no argument, and puts in the document's place what the backend cannot have written.
    """

    backend: Backend
    corrupt_state: Callable[[], object]


Maker = Callable[[], AbstractContextManager[Subject]]

CHECKS = Checks()
NO_TOKENS = ("invalid", -1, object())


@CHECKS.add
def get_returns_what_was_set(subject: Subject) -> None:
    """With a token, and as often as one asks."""
    backend = subject.backend
    token = written(backend, b"x")
    assert backend.get_state() == backend.get_state() == (b"x", token)


@CHECKS.add
def get_of_an_absent_document_returns_none(subject: Subject) -> None:
    """At once; it does not wait for one."""
    assert subject.backend.get_state() is None
    assert subject.backend.get_state() is None


@CHECKS.add
def get_of_a_corrupt_document_is_a_state_error(subject: Subject) -> None:
    """Ours, or torch's of the same name."""
    subject.corrupt_state()
    error = fails(subject.backend.get_state, Exception)
    assert any(kind.__name__ == "RendezvousStateError" for kind in type(error).__mro__), repr(error)


@CHECKS.add
def set_writes_an_absent_document(subject: Subject) -> None:
    """It returns what it wrote, with a token."""
    state, token, is_written = subject.backend.set_state(b"x")
    assert (state, is_written) == (b"x", True)
    assert token is not None
    assert subject.backend.get_state() == (b"x", token)


@CHECKS.add
def set_with_the_current_token_replaces(subject: Subject) -> None:
    """Whether the token is of a write or of a read; the next token is another."""
    backend = subject.backend
    tokens = [written(backend, b"x")]
    tokens.append(written(backend, b"y", tokens[-1]))
    tokens.append(written(backend, b"z", backend.get_state()[1]))
    assert tokens[0] != tokens[1] != tokens[2] != tokens[0]
    assert backend.get_state() == (b"z", tokens[-1])


@CHECKS.add
def set_with_an_old_token_returns_what_is_there(subject: Subject) -> None:
    """And leaves it as it is."""
    backend = subject.backend
    old = written(backend, b"x")
    current = written(backend, b"y", old)
    refused(backend, b"z", old, current=(b"y", current))


@CHECKS.add
def set_without_a_token_returns_what_is_there(subject: Subject) -> None:
    """And leaves it as it is."""
    backend = subject.backend
    token = written(backend, b"x")
    refused(backend, b"y", None, current=(b"x", token))


@CHECKS.add
def set_with_what_is_no_token_returns_what_is_there(subject: Subject) -> None:
    """Be it of the wrong type; where there is no document yet, it writes none."""
    backend = subject.backend
    for no_token in NO_TOKENS:
        refused(backend, b"x", no_token, current=None)
    token = written(backend, b"x")
    for no_token in NO_TOKENS:
        refused(backend, b"y", no_token, current=(b"x", token))


@CHECKS.add
def the_same_bytes_are_no_excuse_for_a_token(subject: Subject) -> None:
    """Who did not write is not told that he did, because somebody else has written the same."""
    backend = subject.backend
    old = written(backend, b"x")
    refused(backend, b"x", None, current=(b"x", old))
    current = written(backend, b"y", old)
    refused(backend, b"y", old, current=(b"y", current))
    current = written(backend, b"y", current)
    refused(backend, b"y", old, current=(b"y", current))


@CHECKS.add
def a_token_stays_old_when_its_bytes_return(subject: Subject) -> None:
    """What was read before may rest on what has changed in between."""
    backend = subject.backend
    old = written(backend, b"x")
    current = written(backend, b"x", written(backend, b"y", old))
    assert current != old
    refused(backend, b"z", old, current=(b"x", current))


@CHECKS.add
def an_empty_document_is_one(subject: Subject) -> None:
    """It is there, has a token, and can be replaced."""
    backend = subject.backend
    token = written(backend, b"")
    assert backend.get_state() == (b"", token)
    refused(backend, b"x", None, current=(b"", token))
    written(backend, b"x", token)


def written(backend: Backend, state: bytes, token: Any = None) -> Any:
    """The token of a write that must succeed.

    Raises:
        AssertionError: It did not.
    """
    found, new_token, is_written = backend.set_state(state, token)
    assert (found, is_written) == (state, True)
    assert backend.get_state() == (state, new_token)
    return new_token


def refused(backend: Backend, state: bytes, token: Any, *, current: tuple[bytes, Any] | None) -> None:
    """A write that must change nothing, and return the current document with its token.

    Raises:
        AssertionError: It did otherwise.
    """
    answer = backend.set_state(state, token)
    assert answer == (None if current is None else (*current, False)), (token, answer)
    assert backend.get_state() == current


def check_backend(make: Maker) -> None:
    """Put a backend through all checks.

    Args:
        make: Gives a context manager whose value is a `Subject`; it is called once for each check.

    Raises:
        AssertionError: Some checks failed; the text names them, each with its own error.
        TypeError: There is no context manager.
    """
    run_all(CHECKS, make, lambda check, subject: check(subject))


class RendezvousBackendTestMixin(ABC):
    """Every check as a test. Derive your test class from it, and see to it that each test finds a fresh `_backend`.

    Attributes:
        _backend: The backend to test, without a document.
    """

    _backend: Backend

    @abstractmethod
    def _corrupt_state(self) -> None:
        """Put in the document's place what the backend cannot have written."""


def _as_test(check: Check) -> Callable[[RendezvousBackendTestMixin], None]:
    def test(self: RendezvousBackendTestMixin) -> None:
        check(Subject(self._backend, self._corrupt_state))

    test.__doc__ = check.__doc__
    return test


for _check in CHECKS:
    setattr(RendezvousBackendTestMixin, f"test_{_check.__name__}", _as_test(_check))
