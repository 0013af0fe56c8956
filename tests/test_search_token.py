"""A token brings back scenario, seed and digest, or says what is wrong with it."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from sim.scenario import Scenario
from sim.search.token import Token, TokenError
from sim.strategies import scenarios

PROPERTY = settings(max_examples=50, suppress_health_check=list(HealthCheck))
DIGEST = "0123456789abcdef"
TOKEN = str(Token(Scenario.of_rounds(3, 1), 7, DIGEST * 4))
UNPACKED = Token(Scenario.of_rounds(3, 1), 7, DIGEST)


@PROPERTY
@given(scenarios(), st.integers(0, 2**70), st.text("0123456789abcdef", min_size=16, max_size=64))
def test_a_token_brings_back_what_was_put_in(scenario: Scenario, seed: int, digest: str) -> None:
    """All of it, in the characters that a URL and a shell leave alone."""
    token = str(Token(scenario, seed, digest))
    assert re.fullmatch(r"rdzv1-[A-Za-z0-9_-]+", token)
    assert Token.parse(token) == Token(scenario, seed, digest[:16])


def test_a_token_takes_any_seed_that_the_search_does() -> None:
    """What it prints can be replayed, however many digits there are."""
    token = Token(UNPACKED.scenario, 10**100 + 8, DIGEST)
    assert Token.parse(str(token)) == token


def test_a_broken_line_does_not_matter() -> None:
    """A terminal or a letter breaks it."""
    assert Token.parse(f" {TOKEN[:40]}\n  {TOKEN[40:]}\n") == UNPACKED


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "begins with rdzv1-"),
        ("hello", "begins with rdzv1-, not with 'hello'"),
        (TOKEN.replace("rdzv1-", "rdzv2-"), "the packing 'rdzv2'"),
        (TOKEN[:20] + "!" + TOKEN[21:], "character 21 of the token is '!'"),
        (TOKEN[:-9], "copied|cut off"),
        (TOKEN[:30] + ("A" if TOKEN[30] != "A" else "B") + TOKEN[31:], "its checksum is another"),
        ("rdzv1-", "its checksum is another|cannot be read"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str) -> None:
    """With the place, where there is one."""
    with pytest.raises(TokenError, match=problem):
        Token.parse(text)


@given(st.text() | st.text(st.sampled_from("abcXYZ019_-")).map("rdzv1-".__add__))
@example("rdzv1-" + "é")
def test_nothing_else_comes_of_any_text(text: str) -> None:
    """No other error, whatever it is."""
    with pytest.raises(TokenError):
        Token.parse(text)


@given(st.data())
def test_a_token_with_a_changed_character_is_no_other(data: st.DataObject) -> None:
    """It is refused, or says the same still."""
    place = data.draw(st.integers(0, len(TOKEN) - 1))
    changed = TOKEN[:place] + data.draw(st.characters(max_codepoint=127)) + TOKEN[place + 1 :]
    try:
        parsed = Token.parse(changed)
    except TokenError:
        return
    assert parsed == UNPACKED
