"""How a keeper's interpreter begins."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest


def test_what_is_loaded_later_is_the_module_itself():
    """Whoever asks for something of it, before or after, gets it: from the module that was there first, too."""
    program = """
from sim.process import boot
boot.prepare()
import inspect as before
print(before.cleandoc("  a"), before.getdoc(len) is not None)
import inspect as after
print(after.getdoc is before.getdoc, after.__spec__ is not None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "a True\nTrue True\n"


def test_what_programs_need_is_loaded_once_and_for_them_alone():
    """Each rank of a job would map it, and each rank that becomes a program would load it."""
    program = """
from sim.process import boot
boot.prepare()
import fcntl, sys
from sim.process import keeper, program
loaded = lambda: [sys.modules[name].__spec__ is not None for name in ("fcntl", "resource")]
print(loaded())
boot.load_what_programs_need()
print(loaded(), program.fcntl.F_DUPFD_CLOEXEC == sys.modules["fcntl"].F_DUPFD_CLOEXEC)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[False, False]\n[True, True] True\n"


def test_no_translation_is_looked_for():
    """By click, whose messages are as they are written: to look for others takes time."""
    program = """
from sim.process import boot
boot.spare()
import sys
from gettext import gettext, ngettext
print(gettext("Usage:"), [ngettext("day", "days", count) for count in range(3)], sys.modules["gettext"].__spec__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "Usage: ['days', 'day', 'days'] None\n"


@pytest.mark.parametrize("text", ["", "a ", "  \ta\tb", "a\n  b\n\n    c\n", "\n  a\n"])
def test_a_text_is_cleaned_as_ever(text: str) -> None:
    """Also where that takes the module itself."""
    program = f"from sim.process import boot; boot.spare(); import inspect; print(ascii(inspect.cleandoc({text!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{inspect.cleandoc(text)!a}\n"
