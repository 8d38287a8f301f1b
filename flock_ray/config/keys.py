"""The configuration's keys: unknown ones are refused, in an error that lists the valid ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_type_hints

from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, InterpolationValidationError

from flock_ray.config.arena import ArenaConfig
from flock_ray.config.schema import Config
from flock_ray.errors import ConfigError

_OTHER_GROUPS = ("experiment",)
"""Groups of `conf/` that are no part of the schema: their options set keys of the others."""


def valid_keys(schema: type[Any] = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the configuration, for an error message that lists them."""
    hints = get_type_hints(schema)
    for item in fields(schema):
        kind = hints[item.name]
        if isinstance(kind, type) and is_dataclass(kind):
            yield from valid_keys(kind, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name


def explain_bad_key(error: Exception, schema: type[Any] = Config) -> str:
    """A one-line text for an error of Hydra or OmegaConf; for an unknown key it lists the valid ones of its group."""
    text = " ".join(str(error.__cause__ or error).split())
    if isinstance(error, InterpolationResolutionError | InterpolationKeyError | InterpolationValidationError):
        reason = text.partition(" full_key:")[0].rpartition("interpolation: ")[2].strip('"')
        return f"{error.full_key}: {reason}"
    if option := re.search(r"Could not find '(\w+)/(\S*)' Available options in '\w+': ([\w ]+) Config search", text):
        group, choice, known = option.groups()
        options = [one for one in known.split() if group != "experiment" or _fits(one, schema)]
        meant = _nearest(choice, options, f"{group}=")
        return f"there is no {group}={choice}{meant}; it must be one of {', '.join(options)}"
    if other := re.search(r"Could not override '(\w+)'. No match in the defaults list", text):
        return _of_another_kind(other[1], schema) or text
    asked = re.search(r"full_key: ([\w.]+)", text) or re.search(r"[Kk]ey '([\w.]+)'", text)
    if not asked:
        return text
    key = asked.group(1)
    return f"{key}: {text.partition(' full_key:')[0]}" if key in valid_keys(schema) else _unknown_key(key, schema)


def _fits(experiment: str, schema: type[Any]) -> bool:
    """Whether an experiment is of this schema's kind: those of a contest say so in their names."""
    return experiment.startswith("arena_") == ("contest" in get_type_hints(schema))


def _unknown_key(key: str, schema: type[Any]) -> str:
    if told := _of_another_kind(key.partition(".")[0], schema):
        return told
    above, siblings = key.rpartition(".")[0], list[str]()
    while above and not siblings:
        siblings = [valid for valid in valid_keys(schema) if valid.startswith(f"{above}.")]
        above = above.rpartition(".")[0]
    groups = [group for group in _OTHER_GROUPS if schema is Config and group != key]
    valid = siblings or dict.fromkeys([*(known.partition(".")[0] for known in valid_keys(schema)), *groups])
    group, _, name = key.rpartition(".")
    meant = _nearest(name, [other.rpartition(".")[2] for other in valid], f"{group}." if group else "")
    return f"unknown configuration key {key!r}{meant}; valid here: {', '.join(valid)}"


def _of_another_kind(group: str, schema: type[Any]) -> str:
    """Which command takes a group that an alliance or a contest lacks, and the other one has; empty if none does."""
    if schema is Config and group == "contest":
        takes = "is of contests: flock-ray arena takes it, and with plan_only=true looks whether one will work"
    elif schema is ArenaConfig and group in get_type_hints(Config) and group not in get_type_hints(ArenaConfig):
        takes = "is of alliances: flock-ray alliance takes it, and flock-ray check looks whether one will work"
    else:
        return ""
    return f"the group {group!r} {takes}"


def _nearest(word: str, known: Sequence[str], prefix: str = "") -> str:
    """A suggestion of the known word that is most like this one; nothing if none is like it."""
    like = get_close_matches(word, known, 1)
    return f" (did you mean {prefix}{like[0]}?)" if like else ""


def refuse_unknown(values: Mapping[Any, Any], schema: type[Any] = Config) -> None:
    """Refuse keys that Hydra's `+` and `++` add to the schema.

    Raises:
        ConfigError: a key is unknown; the text lists the valid ones.
    """

    def look(part: Mapping[Any, Any], kind: type[Any], prefix: str) -> None:
        hints = get_type_hints(kind)
        for name, value in part.items():
            if name not in hints:
                raise ConfigError(_unknown_key(f"{prefix}{name}", schema))
            if is_dataclass(hints[name]):
                look(value, hints[name], f"{prefix}{name}.")

    look(values, schema, "")
