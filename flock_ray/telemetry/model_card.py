"""README.md of a saved adapter: the model card that hubs and people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flock_ray.telemetry import text
from flock_ray.telemetry.summary import silo_labels
from flock_ray.telemetry.views import MemberTotal


@dataclass(frozen=True)
class Base:
    """The base model of a card.

    Attributes:
        name: for people.
        hub_name: id on the Hugging Face hub; empty if it has none that is known.
        weights: hash of its weights, 0x-hex.
        licence: identifier; empty where it is not known.
    """

    name: str
    hub_name: str
    weights: str
    licence: str


def model_card(
    summary: Mapping[str, Any], members: Sequence[MemberTotal], base: Base, rank: int, alpha: int, anchor: str
) -> str:
    """The card of a run's adapter, in Markdown, with the metadata that hubs read.

    Args:
        summary: what `build_summary` made.
        members: every member, in registration order.
        base: its base model.
        rank: of the adapter.
        alpha: numerator of the adapter's scaling.
        anchor: of the run, 0x-hex.
    """
    epochs = summary["epochs"]
    before: Mapping[str, float] = epochs[0]["eval_loss_before"] if epochs else {}
    after: Mapping[str, float] = epochs[-1]["eval_loss_after"] if epochs else {}
    environment = Environment(
        loader=PackageLoader("flock_ray.telemetry"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"loss": text.loss, "cell": _cell}
    labels = silo_labels(members)
    rows = [(member, labels[member.index], before.get(labels[member.index]), after.get(labels[member.index]))
            for member in members]  # fmt: skip
    return environment.get_template("model_card.md.jinja").render(
        summary=summary,
        base=base,
        rank=rank,
        alpha=alpha,
        anchor=anchor,
        rows=rows,
        mean_before=fmean(before.values()) if before else None,
        mean_after=fmean(after.values()) if after else None,
        tokens=sum(member.num_tokens for member in members),
        accepted=sum(epoch["accepted"] for epoch in epochs),
    )


def _cell(value: str) -> str:
    """A text from elsewhere as one that Markdown shows as it is."""
    escaped = "".join(f"\\{char}" if char in r"\`*_{}[]()<>#+-.!|~&" else char for char in value)
    return text.printable(escaped)
