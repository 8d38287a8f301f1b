"""Commands that look at finished runs: their settings, given as `key=value`, in the words of a run's configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from flock_ray.errors import ConfigError

S = TypeVar("S")


def about(help: str, low: float = -math.inf, high: float = math.inf, choices: Sequence[str] = ()) -> dict[str, Any]:
    """Of a setting: what it is, and the numbers or the words that it may be."""
    return {"help": help, "low": low, "high": high, "choices": tuple(choices)}


@dataclass(frozen=True)
class ChatSettings:
    """Of `flock-ray chat`."""

    run: Path = field(metadata=about("folder of the finished run"))
    max_new_tokens: int = field(default=256, metadata=about("longest answer, in tokens", low=1))
    temperature: float = field(
        default=0.0, metadata=about("0: always the likeliest token; above it, drawn from the model's odds", low=0)
    )
    top_p: float = field(
        default=1.0,
        metadata=about("draw among the likeliest tokens with this share of the odds", low=0.01, high=1),
    )
    seed: int = field(default=0, metadata=about("of what is drawn", low=0))
    threads: int = field(
        default=0, metadata=about("CPU threads; 0 for those of a worker of the run, the best for a small model", low=0)
    )
    system: str = field(default="", metadata=about("what the conversation begins with, as the system"))


@dataclass(frozen=True)
class MarketDemoSettings:
    """Of `flock-ray market-demo`."""

    run: str = field(default="", metadata=about("folder of a finished run of an alliance; empty: one is trained"))
    accept: str = field(default="", metadata=about("licences of that run that are accepted, with commas between"))
    seconds: int = field(default=60, metadata=about("that users ask", low=1, high=3_600))
    port: int = field(default=8_000, metadata=about("where the gateway listens", low=1, high=65_535))


@dataclass(frozen=True)
class EvaluateSettings:
    """Of `flock-ray evaluate`."""

    run: Path = field(metadata=about("folder of the finished run"))
    data: str = field(
        metadata=about("file of conversations, a folder or a glob of such files, each a row of the table")
    )
    average: str = field(
        default="token", metadata=about("each token counts the same, or each row", choices=("token", "row"))
    )
    threads: int = field(
        default=0, metadata=about("CPU threads; 0 for those of a worker of the run, which give its losses", low=0)
    )
    length: int = field(
        default=1024, metadata=about("longest row, in tokens; what is beyond is cut, and counted", low=2)
    )


@dataclass(frozen=True)
class ExportSettings:
    """Of `flock-ray export`."""

    run: Path = field(metadata=about("folder of the finished run"))
    to: str = field(
        metadata=about(
            "a model folder with the adapter merged into the base, or the adapter on the Hugging Face hub",
            choices=("merged", "hub"),
        )
    )
    path: str = field(
        default="", metadata=about("merged: the folder to make (default: merged/ of the run); hub: the id, ORG/NAME")
    )
    private: str = field(
        default="true",
        metadata=about("whether a repository that is made on the hub is private", choices=("true", "false")),
    )


@dataclass(frozen=True)
class SubmitSettings:
    """Of `flock-ray arena submit`."""

    task: str = field(metadata=about("id of the contest, from whoever holds it"))
    adapter: Path = field(metadata=about("folder of a LoRA adapter as PEFT saves it"))
    store: str = field(metadata=about("where the contest keeps its files: a folder or a URL such as s3://bucket/name"))
    rpc: str = field(metadata=about("node of the chain"))
    contracts: str = field(
        metadata=about("address book of the contracts, folder of a run on them, or the address of EpochSettlement")
    )
    key: str = field(metadata=about("account that enters, such as node-3"))
    keystore: str = field(default="", metadata=about("folder of keystores, instead of the environment"))
    records: str = field(
        default="~/.flock_ray/submissions",
        metadata=about("folder that remembers what was signed, so that the account never contradicts itself"),
    )
    wait: str = field(
        default="true",
        metadata=about("follow the submission to the end of its day", choices=("true", "false")),
    )


@dataclass(frozen=True)
class StatusSettings:
    """Of `flock-ray arena status`."""

    contest: str = field(metadata=about("id of an open contest, or the folder of a run"))
    store: str = field(default="", metadata=about("with an id: where the contest keeps its files"))
    account: str = field(default="", metadata=about("only this node's submission"))
    day: int = field(default=0, metadata=about("a day that is over; 0: the last one that has begun", low=0))


@dataclass(frozen=True)
class SweepSettings:
    """Of `flock-ray sweep`; each word begins with `SWEEP`, since overrides of the runs stand beside it."""

    folder: Path = field(
        default=Path(),
        metadata=about("where points and results go (default: outputs/sweeps; in a Ray job, of the home folder)"),
    )
    window: int = field(
        default=0, metadata=about("how many points run at a time; 0 for as many as the cores and GPUs carry", low=0)
    )
    address: str = field(
        default="",
        metadata=about(
            "dashboard of a Ray cluster, http://…:8265: play each point as a job there, not on this machine"
        ),
    )
    retry: str = field(
        default="false", metadata=about("play points that have failed once more", choices=("true", "false"))
    )
    fail_fast: str = field(
        default="false", metadata=about("start no point after one has failed", choices=("true", "false"))
    )


SWEEP = "sweep."


def words_of(schema: type[Any], prefix: str = "") -> str:
    """The settings for `--help`: name, what it is, default."""
    return "; ".join(
        f"{prefix}{one.name}={_shape(one)}: {one.metadata['help']}{_default(one)}" for one in fields(schema)
    )


def _shape(one: Field[Any]) -> str:
    return "|".join(one.metadata["choices"]) or one.name.upper()


def _default(one: Field[Any]) -> str:
    return f" (default: {one.default})" if one.default not in (MISSING, "", Path()) else ""


def read_settings(schema: type[S], words: Sequence[str], prefix: str = "") -> S:
    """The settings that the words of a command line give; `prefix` is what their names begin with.

    Raises:
        ConfigError: an unknown key, a value that is none, or a setting that is missing.
    """
    known: dict[str, Field[Any]] = {f"{prefix}{one.name}": one for one in fields(schema)}  # type: ignore[arg-type]
    kinds, values = get_type_hints(schema), dict[str, Any]()
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            near = get_close_matches(key, known, 1)
            raise ConfigError(
                f"unknown setting {word!r}{f'; did you mean {near[0]}=…' if near else ''}; there are"
                f" {', '.join(f'{name}=…' for name in known)}"
            )
        values[known[key].name] = _value(key, known[key], kinds[known[key].name], text)
    missing = [name for name, one in known.items() if one.default is MISSING and one.name not in values]
    if missing:
        raise ConfigError(f"{missing[0]}=… is missing: {known[missing[0]].metadata['help']}")
    return schema(**values)


def _value(key: str, one: Field[Any], kind: type[Any], text: str) -> Any:
    choices, low, high = (one.metadata[name] for name in ("choices", "low", "high"))
    if choices and text not in choices:
        raise ConfigError(f"{key} is {text!r}; it must be {' or '.join(choices)}")
    try:
        value: Any = Path(text).expanduser() if kind is Path else kind(text)
    except ValueError:
        raise ConfigError(f"{key} is {text!r}; it must be a number") from None
    if isinstance(value, int | float) and not (low <= value <= high and value < math.inf):
        limits = f"{low:g} or more" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{key} is {text}; it must be {limits}")
    return value
