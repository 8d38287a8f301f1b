"""Parts that commands of several groups have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def sentence(text: str) -> str:
    """A line of help as a sentence."""
    return f"{text[0].upper()}{text[1:]}."


def add_command(commands: Any, name: str, help: str, act: str, *parts: Callable[[Any], None]) -> Any:
    """Add a command.

    Args:
        commands: sub-parsers that it is one of.
        name: its word.
        help: what it does, in a line.
        act: `module:function` that runs it.
        parts: each adds arguments.
    """
    parser = commands.add_parser(name, help=help, description=sentence(help))
    parser.set_defaults(act=act)
    for part in parts:
        part(parser)
    return parser


def of_run(parser: Any) -> None:
    """The folder of a run."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of the run")
