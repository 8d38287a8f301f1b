"""Silos of several kinds in one task: what is named for a member says which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.training.data import DataSpec, Reading, sources
from flock_ray.training.files import entry

KIND = "mixed"


def spec_of(spec: DataSpec, member: int) -> DataSpec:
    """The same with the member's own kind of data.

    Raises:
        DataError: nothing is named for the member, or not as KIND:WHAT.
    """
    known = [kind for kind in sources() if kind != KIND]
    if not isinstance(spec.path, Mapping):
        raise DataError(
            f"data.path is {spec.path!r}; it must name each member's data:"
            " data.path={0:stdlib_code:json,1:jsonl:/data/ann.jsonl}"
        )
    named = entry(spec.path, member)
    kind, _, what = named.partition(":")
    if kind not in known or not what:
        raise DataError(
            f"data.path of member {member} is {named!r}; it must begin with one of {', '.join(known)} and ':', as in"
            " jsonl:/data/ann.jsonl"
        )
    packages = ("",) * member + (what,) if kind == "stdlib_code" else ()
    return replace(spec, kind=kind, path={member: what}, packages=packages)


def read(spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase) -> Reading:
    """The member's silo, as its own kind is read.

    Raises:
        DataError: see `spec_of`, and the kind.
    """
    own = spec_of(spec, member)
    return sources()[own.kind](own, member, tokenizer)
