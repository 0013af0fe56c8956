"""A run in one word: scenario, seed and digest, packed so that it survives a terminal, a chat and a URL.

Knows the packing alone. A token says which packing it has, and its checksum tells a damaged one from a foreign one.
Whoever unpacks one may have it from a stranger: nothing in it is run, and it cannot grow beyond `TEXT_BYTES_MAX`.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim import scenario_file
from sim.scenario_text import ScenarioError

if TYPE_CHECKING:
    from typing_extensions import Self

    from sim.scenario import Scenario

MARK, VERSION = "rdzv", "1"
TEXT_BYTES_MAX = 1 << 20
DIGEST_CHARS = 16  # of a digest; enough to tell another run by
_CHECKSUM_BYTES = 4
_SEED = re.compile(r"[0-9]{1,4000}")  # about as many as Python reads as a number
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")


class TokenError(ValueError):
    """It is no token, or not a whole one."""


@dataclass(frozen=True, slots=True)
class Token:
    """What to run again.

    Attributes:
        scenario: The scenario.
        seed: The seed, 0 or more.
        digest: The first `DIGEST_CHARS` characters of what its trace came to.
    """

    scenario: Scenario
    seed: int
    digest: str

    def __str__(self) -> str:
        text = f"{self.seed} {self.digest[:DIGEST_CHARS]}\n{scenario_file.dumps(self.scenario)}"
        packed = zlib.compress(text.encode(), 9)
        checksum = zlib.crc32(packed).to_bytes(_CHECKSUM_BYTES, "big")
        word = base64.urlsafe_b64encode(checksum + packed).decode().rstrip("=")
        return f"{MARK}{VERSION}-{word}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token; white space in and around it, as a line break leaves it, does not matter.

        Raises:
            TokenError: It is none; what is the matter, and where, is said.
        """
        mark, dash, word = "".join(text.split()).partition("-")
        if not dash or not mark.startswith(MARK):
            raise TokenError(f"a token begins with {MARK}{VERSION}-, not with {text[:12]!r}")
        if mark != MARK + VERSION:
            raise TokenError(f"this token has the packing {mark!r}, and only {MARK + VERSION!r} is known here")
        seed_and_digest, _, toml = _unpacked(word, len(mark) + 1).partition("\n")
        seed, _, digest = seed_and_digest.partition(" ")
        if not _SEED.fullmatch(seed):
            raise TokenError(f"the token's seed is {seed!r}, which is no number")
        try:
            return cls(scenario_file.loads(toml, file="the token's scenario"), int(seed), digest)
        except ScenarioError as error:
            raise TokenError(str(error)) from error


def _unpacked(word: str, offset: int) -> str:
    if match := _FOREIGN.search(word):
        place = offset + match.start() + 1
        raise TokenError(f"character {place} of the token is {match[0]!r}: there are letters, digits, - and _ alone")
    try:
        data = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
    except binascii.Error:
        raise TokenError(f"the token is cut off: no packed bytes have {len(word)} characters") from None
    checksum, packed = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if zlib.crc32(packed).to_bytes(_CHECKSUM_BYTES, "big") != checksum:
        raise TokenError("the token is damaged: its checksum is another; was all of it copied?")
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, TEXT_BYTES_MAX)
        if not unpacker.eof:
            raise TokenError(f"the token holds more than {TEXT_BYTES_MAX} bytes, or ends in the midst of them")
        return text.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise TokenError(f"what the token holds cannot be read: {error}") from None
