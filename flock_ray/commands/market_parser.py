"""The command line of the marketplace; see `parser`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from flock_ray.commands.arguments import address, digest, positive, price, split
from flock_ray.commands.parser_parts import add_command, of_run


def _registry(parser: Any, default: Any = Path("outputs/market/registry")) -> None:
    parser.add_argument(
        "--registry",
        type=Path,
        default=default,
        metavar="DIR",
        help="folder of the registry (default: outputs/market/registry)",
    )
    kept = default if default is argparse.SUPPRESS else False  # of `models --json show`
    parser.add_argument("--json", action="store_true", default=kept, help="print one JSON object")


def _of_model(parser: Any) -> None:
    parser.add_argument("model", metavar="MODEL", help="id (name@hash8), hash, alias, or a name that only one has")


def _accounts(parser: Any) -> None:
    parser.add_argument(
        "--host", metavar="ADDRESS", type=address, help="account that serves it (default: owner, or as it is)"
    )
    parser.add_argument(
        "--split", metavar="PERCENT,...", type=split,
        help="of what answers cost to host, protocol, owner, members (default: 20,8,22,50, or as it is)",
    )  # fmt: skip


def _prices(parser: Any) -> None:
    for name, what in (("prompt", "prompts"), ("output", "answers")):
        parser.add_argument(
            f"--price-{name}", metavar="AMOUNT", type=price,
            help=f"whole tokens of the chain for a million tokens of {what} (default: 0, or what it is now)",
        )  # fmt: skip


def add_models(commands: Any) -> None:
    """Commands on a registry of models."""
    models = add_command(commands, "models", "list the models that a registry serves", "models:list_models", _registry)
    models.add_argument("--all", action="store_true", help="retired ones, too")
    inner = models.add_subparsers(title="commands", metavar="COMMAND", required=False)
    add_command(inner, "show", "show a model: where it came from, down to signed records, and what members earned",
               "models:show", partial(_registry, default=argparse.SUPPRESS), _of_model)  # fmt: skip
    publish = add_command(
        commands, "publish", "verify a run, and serve an adapter of it", "models:publish", of_run, _registry,
        _prices, _accounts,
    )  # fmt: skip
    publish.add_argument("--name", default="", help="of the model (default: that of its base model)")
    publish.add_argument("--epoch", type=positive, metavar="N", help="epoch or day (default: the last accepted one)")
    publish.add_argument("--place", type=positive, metavar="N", help="place in a contest's ranking (default: 1)")
    publish.add_argument(
        "--owner", metavar="ADDRESS", type=address, help="account that publishes it (default: the task's creator)"
    )
    for name, what in (
        ("base", "what the base model's folder says"),
        ("data", "known of the data that comes with Python only"),
        ("adapter", "the strictest of what it was made of"),
    ):
        publish.add_argument(f"--licence-{name}", default="", metavar="NAME", help=f"(default: {what})")
    publish.add_argument(
        "--accept", action="append", default=[], metavar="NAME",
        help="a licence that is not permissive and that you accept; may be given again",
    )  # fmt: skip
    publish.add_argument(
        "--context", type=positive, default=0, metavar="TOKENS", help="of prompt and answer (default: the base model's)"
    )
    publish.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of the base model, if not where the run's config.yaml says"
    )
    publish.add_argument("--anchor", type=digest, default="", metavar="HASH", help="as for: verify")
    publish.add_argument("--rpc", default="", metavar="URL", help="as for: verify")
    publish.add_argument("--store", default="", metavar="URL", help="as for: verify")
    add_command(commands, "retire", "serve a model no longer", "models:retire", _of_model, _registry)
    alias = add_command(commands, "alias", "let a name stand for a model from now on", "models:alias", _registry)
    alias.add_argument("name", metavar="NAME", help="of 1 to 63 of a-z, 0-9, '.' and '-'")
    _of_model(alias)
    add_command(
        commands, "price", "change what a model costs, and who gets it", "models:price", _of_model, _registry, _prices,
        _accounts,
    )  # fmt: skip
