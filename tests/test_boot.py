"""How a keeper's interpreter begins."""

from __future__ import annotations

import subprocess
import sys


def test_what_is_loaded_later_is_the_module_itself():
    """Whoever asks for something of it, before or after, gets it: from the module that was there first, too."""
    program = """
from sim.process import boot
boot.prepare()
import inspect as before
print(before.cleandoc("  a"), before.getdoc(len) is not None)
import inspect as after
print(after.cleandoc is before.cleandoc, after.__spec__ is not None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "a True\nTrue True\n"
