"""The command line of `flock-ray`: each command names the function that runs it, so nothing slow is imported here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMPOSED = {("run",): "run:run", ("deployment", "deploy"): "deploy:deploy"}
"""Commands whose arguments are overrides of a configuration, with `--help` and all other options: Hydra's."""

_HASH_DIGITS = 64


def build_parser() -> argparse.ArgumentParser:
    """The parser; it sets `act` to `module:function` of the command."""
    parser = argparse.ArgumentParser(
        prog="flock-ray",
        description="FL Alliance on Ray: train together, settle on a chain, hold stake, check what others did.",
        epilog="flock-ray COMMAND --help tells more. Exit codes: docs/exit-codes.md.",
    )
    commands = _group(parser)
    commands.add_parser("run", help="train: an alliance from configuration to report", add_help=False)
    _add_verify(commands)
    _add_task(_group(commands.add_parser("task", help="a task: its members, its money, evidence about it")))
    deployment = _group(commands.add_parser("deployment", help="the contracts on a chain"))
    deployment.add_parser("deploy", help="deploy the contracts, or what is missing of them", add_help=False)
    return parser


def _group(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _command(group: Any, name: str, act: str, help: str, parents: Sequence[argparse.ArgumentParser] = ()) -> Any:
    """A command of a group; its help is its description, too."""
    parser = group.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", parents=parents)
    parser.set_defaults(act=act)
    return parser


def _add_verify(commands: Any) -> None:
    verify = _command(
        commands,
        "verify",
        "verify:verify",
        "replay a finished run from its signed messages, and name the first thing that does not hold",
    )
    verify.epilog = (
        "Exit codes: 0 everything held, 51 something does not, 61 no finished run, or one that was pruned, 41 the RPC"
        " does not answer."
    )
    verify.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of the run")
    verify.add_argument(
        "--anchor",
        metavar="HASH",
        type=_anchor,
        help="what the run started from (task, terms, members' accounts, contract), as you know it from elsewhere:"
        " without it a forger who made up all members would pass",
    )
    verify.add_argument("--rpc", default="", metavar="URL", help="node that you trust, for a run on an external chain")
    verify.add_argument("--store", default="", metavar="URL", help="where the blobs are, if not in RUN_DIR/store")


def _add_task(task: Any) -> None:
    answer = _command(task, "answer", "evidence:answer", "answer absence challenges out of a run's folder", [_of_run()])
    answer.add_argument("--every", type=float, default=0.0, metavar="SECONDS", help="look again and again")
    accuse = _command(task, "accuse", "evidence:accuse", "prove that a member contradicted itself", [_of_run()])
    accuse.add_argument(
        "files",
        nargs=2,
        type=Path,
        metavar="FILE",
        help='two signed messages of one member, each {"message": {...}, "signature": "0x..."}',
    )


def _of_run() -> argparse.ArgumentParser:
    """What every command has that sends a transaction about a run."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("--rpc", required=True, metavar="URL", help="node of the run's chain")
    parser.add_argument("--key", required=True, metavar="NAME", help="whose key pays the gas, for example member-0")
    parser.add_argument("--keystore", default="", metavar="DIR", help="folder of keystores, instead of the environment")
    return parser


def _anchor(text: str) -> str:
    digits = text.lower().removeprefix("0x")
    if len(digits) != _HASH_DIGITS or set(digits) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError("a hash has 64 hex digits")
    return digits
