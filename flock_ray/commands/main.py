"""The command `flock-ray`: finds the sub-command, runs it, ends with its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from flock_ray.cluster.interrupts import end_process, stop_on_signals
from flock_ray.commands.guard import guarded
from flock_ray.commands.outcome import exit_code_of
from flock_ray.commands.parser import COMPOSED, PARSED, build_parser

ON_RAY = ("alliance", "arena", "demo", "market-demo", "serve")
"""Commands that Ray ends on the spot when its raylet dies: another process tells of that."""


def start(*words: str) -> NoReturn:
    """Run the command line of this process, with these words before it, and end the process."""
    arguments = [*words, *sys.argv[1:]]

    def run() -> int:
        stop_on_signals()
        return main(arguments)

    if (
        arguments[:1] in (["alliance"], ["arena"], ["demo"], ["serve"], ["market-demo"])
        and tuple(arguments[:2]) not in PARSED
    ):
        sys.exit(guarded(run, end_process))
    end_process(run())


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit code.

    Raises:
        SystemExit: the command line is wrong, or asks for help.
    """
    for words, act in COMPOSED.items():
        if tuple(arguments[: len(words)]) == words and tuple(arguments[:2]) not in PARSED:
            return exit_code_of(partial(_run, act, arguments[len(words) :]))
    asked = build_parser().parse_args(arguments)
    return exit_code_of(partial(_run, asked.act, asked))


def _run(act: str, argument: Any) -> int | None:
    return function_of(act)(argument)


def function_of(act: str) -> Callable[[Any], int | None]:
    """The function `module:function` of this package; its module may take long to import."""
    module, _, name = act.partition(":")
    function: Callable[[Any], int | None] = getattr(import_module(f"flock_ray.commands.{module}"), name)
    return function
