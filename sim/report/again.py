"""The command line that runs the same thing again. Knows click. Must not know what the options mean."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from click import Option
from click.core import ParameterSource

if TYPE_CHECKING:
    import click

_ABOUT_OUTPUT = ("report", "as_json")


def again(context: click.Context, seed: int) -> str:
    """The command of a context, with what was given to it but for what is about its output.

    Args:
        context: Of a command whose arguments are words behind ``--``.
        seed: What the run was drawn from, whether it was given or not.
    """
    words = context.command_path.split()
    behind: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        if not isinstance(parameter, Option):
            behind = [*map(str, value or ())]
        elif name == "seed":
            words += ["--seed", str(seed)]
        elif context.get_parameter_source(name) is not ParameterSource.COMMANDLINE or name in _ABOUT_OUTPUT:
            continue
        elif parameter.is_flag:
            words.append(parameter.opts[-1])
        else:
            for each in value if isinstance(value, tuple) else (value,):
                words += [parameter.opts[-1], f"{each:.15g}" if isinstance(each, float) else str(each)]
    return shlex.join([*words, *(["--", *behind] if behind else [])])
