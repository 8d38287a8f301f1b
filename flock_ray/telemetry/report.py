"""report.html: one run on one page that needs nothing else: no script, no font, no file beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flock_ray.store.files import write_text
from flock_ray.telemetry import charts, text
from flock_ray.telemetry.summary import silo_labels
from flock_ray.telemetry.views import Answer, EpochView, MemberTotal, honest_with_more

FEW_EPOCHS = 3
"""With no more than these, lines over epochs say little, and a bar shows each silo's change."""


def write_report(
    path: str | Path,
    summary: Mapping[str, Any],
    epochs: Sequence[EpochView],
    members: Sequence[MemberTotal],
    answers: Sequence[Answer] = (),
) -> None:
    """Write the report of a run.

    Args:
        path: the HTML file; it is replaced whole.
        summary: what `build_summary` made of the same epochs and members.
        epochs: every epoch of the run, in order, all with the same members.
        members: every member, in registration order.
        answers: to public prompts, before and after the run.
    """
    environment = Environment(
        loader=PackageLoader("flock_ray.telemetry"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "tokens": text.tokens, "loss": text.loss, "score": text.score, "short": text.short, "seconds": text.seconds,
        "spoken": text.spoken, "at_step": text.at_step, "fees": text.fees, "voiceless": text.voiceless,
    }  # fmt: skip
    page = environment.get_template("report.html.jinja").render(
        summary=summary,
        epochs=epochs,
        members=members,
        labels=silo_labels(members),
        headline=_headline(epochs, members),
        figures=_figures(epochs),
        answers=answers,
        chain_facts=list(_flat(summary["chain"])),
        run_facts=list(_flat(summary["run"])),
    )
    write_text(path, page)


def _figures(epochs: Sequence[EpochView]) -> list[tuple[str, str, str]]:
    """Title, how to read it, and the drawing."""
    if not epochs:
        return []
    change = (
        "Change by silo",
        "Held-out loss on every member's own data, from before the first epoch to after the last. Left is better.",
        charts.change_chart(epochs),
    )
    steps = (
        "Local training",
        "Loss of every proposer's batches step by step, on its own train part, and their mean; dashed, on the right:"
        " the learning rate. Vertical lines part the epochs.",
        charts.step_chart(epochs),
    )
    return [
        *([change] if len(epochs) <= FEW_EPOCHS else []),
        (
            "Loss by silo",
            "Held-out loss of the global adapter on every member's own data, which never left it. Lower is better.",
            charts.loss_chart(epochs),
        ),
        *([steps] if any(epoch.steps for epoch in epochs) else []),
        (
            "Scores by member",
            "What each proposal alone improves, by consensus of the voters on their own data. Full circle: accepted;"
            " open circle: rejected, no clear gain; cross: harmful. Grey: the widest acceptance band of the run.",
            charts.score_chart(epochs),
        ),
        (
            "Rewards and slashes",
            "What each member earned, and lost from its stake, one piece an epoch.",
            charts.money_chart(epochs),
        ),
        (
            "Where the time went",
            "Wall time of each epoch by phase.",
            charts.time_chart(epochs),
        ),
    ]


def _headline(epochs: Sequence[EpochView], members: Sequence[MemberTotal]) -> list[tuple[str, str]]:
    """The run in four numbers, each with what it says."""
    tiles = []
    before = epochs[0].honest_loss_before if epochs else None
    after = epochs[-1].honest_loss_after if epochs else None
    if before is not None and after is not None:
        tiles.append((text.percent(before, after), f"mean held-out loss: {text.loss(before)} to {text.loss(after)}"))
    tiles.append((f"{sum(epoch.accepted for epoch in epochs)} of {len(epochs)}", "epochs accepted"))
    caught = sum(member.cheated for epoch in epochs for member in epoch.members)
    slashed = sum(member.slashed for member in members)
    tiles.append((str(caught), f"cheating proposals excluded, {text.tokens(slashed)} tokens slashed"))
    with_more, num_honest = honest_with_more(members)
    tiles.append((f"{with_more} of {num_honest}", "honest members end with more"))
    return tiles


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as rows: `contracts.token`, its value."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield prefix + str(key), "-" if item is None else str(item)
