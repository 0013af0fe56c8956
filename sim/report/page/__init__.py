"""The page: a document of `sim.report.document` and the program that shows it, in one file that asks for nothing else.

Beside this file: ``page.html`` is the frame, ``page.css`` the looks, ``chart.js`` the timeline, ``passages.js`` the
messages on it, ``page.js`` the rest.

What ranks print is hostile. It reaches the page as JSON that cannot end its element, the program puts it there as text,
never as markup, and the page's own policy runs no other script and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def page(document: dict[str, Any]) -> str:
    """The page of a document.

    Args:
        document: What `sim.report.document.document` gives.
    """
    style, program = _read("page.css"), "".join(map(_read, ("chart.js", "passages.js", "page.js")))
    policy = f"default-src 'none'; script-src {_hash(program)}; style-src {_hash(style)}; base-uri 'none'"
    verdict = "holds" if document["ok"] else "FAILED"
    parts = {
        "policy": policy,
        # An argument that is no UTF-8 has surrogates in it, which cannot be written.
        "title": html.escape(f"{verdict}: {document['command']}".encode(errors="replace").decode()),
        "style": style,
        "document": embedded(document),
        "program": program,
    }
    frame = _read("page.html").split("@@")  # text and names of parts in turn
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(frame))


def embedded(document: Any) -> str:
    r"""The document as JSON that no HTML parser takes for anything but text, and that means the same.

    >>> print(embedded("</script>"))
    "\u003c/script\u003e"
    """
    return json.dumps(document, separators=(",", ":")).translate(_ESCAPES)


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")
