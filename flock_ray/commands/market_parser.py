"""The command line of the marketplace; see `parser`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from flock_ray.commands.arguments import address, basis_points, digest, positive, price, split
from flock_ray.commands.parser_parts import add_command, of_run, sentence


def _registry(parser: Any, default: Any = Path("outputs/market/registry")) -> None:
    parser.add_argument(
        "--registry",
        type=Path,
        default=default,
        metavar="DIR",
        help="folder of the registry (default: outputs/market/registry)",
    )
    _json(parser, default if default is argparse.SUPPRESS else False)  # what `models --json show` was given stays


def _json(parser: Any, default: Any = False) -> None:
    parser.add_argument("--json", action="store_true", default=default, help="print one JSON object")


def _accept(parser: Any, what: str) -> None:
    parser.add_argument(
        "--accept", action="append", default=[], metavar="NAME",
        help=f"take {what} a licence that is not permissive, by its name; may be given again".replace("  ", " "),
    )  # fmt: skip


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
    _accept(publish, "")
    publish.add_argument(
        "--context", type=positive, default=0, metavar="TOKENS", help="of prompt and answer (default: the base model's)"
    )
    publish.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of the base model, if not where the run's config.yaml says"
    )
    publish.add_argument("--anchor", type=digest, metavar="HASH", help="as for: verify")
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


def add_feedback(commands: Any) -> None:
    """Commands on what users said of answers."""
    help = "feedback on answers: a silo of it, and the next task"
    inner = commands.add_parser("feedback", help=help, description=sentence(help)).add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    export = add_command(
        inner, "export", "write the rows that may be trained on as a silo, each once", "feedback:export", _json
    )
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="new folder to write")
    export.add_argument(
        "--store", type=Path, default=Path("outputs/market/feedback"), metavar="DIR",
        help="of the gateway (default: outputs/market/feedback)",
    )  # fmt: skip
    export.add_argument("--secret", type=Path, metavar="FILE", help="that seals it, if not in the store's folder")
    export.add_argument("--model", type=digest, metavar="HASH", help="only what was said of this adapter's answers")
    export.add_argument(
        "--heldout", type=basis_points, default=1_000, metavar="PERCENT",
        help="conversations that are never trained on (default: 10)",
    )  # fmt: skip
    _accept(export, "rows of")
    task = add_command(
        inner, "task", "write the configuration of an alliance that starts from a run, with its silos and feedback",
        "feedback:task", of_run, _json,
    )  # fmt: skip
    task.add_argument("--silo", type=Path, required=True, metavar="FILE", help="rows of feedback")
    task.add_argument("--to", type=Path, required=True, metavar="FILE", help="new file NAME.yaml")
