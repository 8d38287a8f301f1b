"""Several runs side by side: their figures, the settings that differ, and one page with both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flock_ray.store.files import write_text
from flock_ray.telemetry import text
from flock_ray.telemetry.charts import runs_chart

PLACES = (
    "output_dir", "resume", "plan_only", "traceback", "chain.keystore", "chain.url", "cluster.address", "store.url",
)  # fmt: skip
"""Settings that say where a run is, and are not compared: an address may hold a key."""


@dataclass(frozen=True)
class ComparedRun:
    """A finished run.

    Attributes:
        label: short, and of no other run that is compared.
        path: of its folder.
        summary: its `summary.json`.
        settings: its `config.yaml`.
    """

    label: str
    path: str
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def losses(self) -> list[float | None]:
        """Mean held-out loss of the honest silos, before the first epoch and after each."""
        epochs = self.summary["epochs"]
        before = [_mean(epochs[0]["eval_loss_before"])] if epochs else []
        return [*before, *(_mean(epoch["eval_loss_after"]) for epoch in epochs)]


def _mean(losses: Mapping[str, float]) -> float | None:
    return fmean(losses.values()) if losses else None


def figures(run: ComparedRun) -> dict[str, Any]:
    """What a run came to; None where it has no such figure."""
    summary, losses = run.summary, run.losses
    epochs, members = summary["epochs"], summary["members"]
    seconds = [sum(epoch["wall_seconds"].values()) for epoch in epochs]
    rates = [epoch["training"]["tokens_per_second"] for epoch in epochs if epoch["training"]]
    gas = [epoch["gas_used"] for epoch in epochs if epoch["gas_used"] is not None]
    return {
        "model": summary["model"],
        "members": summary["num_members"],
        "epochs": len(epochs),
        "epochs_accepted": sum(epoch["accepted"] for epoch in epochs),
        "loss_before": losses[0] if losses else None,
        "loss_after": losses[-1] if losses else None,
        "bits_per_byte_after": _mean(epochs[-1]["eval_bits_per_byte_after"]) if epochs else None,
        "honest_members_with_more": summary["num_honest_members_with_more"],
        "slashed_wei": sum(member["slashed_wei"] for member in members),
        "gas_of_settlements": sum(gas) if gas else None,
        "seconds": sum(seconds),
        "tokens_per_second": fmean(rates) if rates else None,
        "final_adapter_hash": summary["final_adapter_hash"],
    }


def shown(found: Mapping[str, Any]) -> dict[str, str]:
    """Figures as a person reads them, the change of the loss among them."""
    rows: dict[str, str] = {}
    for name, value in found.items():
        label = name.removesuffix("_wei").replace("_", " ")
        if value is None:
            rows[label] = "-"
        elif name.endswith("_wei"):
            rows[label] = text.tokens(value)
        elif name == "seconds":
            rows[label] = text.seconds(value)
        elif name == "final_adapter_hash":
            rows[label] = text.short(value)
        elif isinstance(value, float):
            rows[label] = f"{value:,.0f}" if name == "tokens_per_second" else text.loss(value)
        else:
            rows[label] = f"{value:,}" if isinstance(value, int) else text.printable(str(value))
        if name == "loss_after":
            rows["change of loss"] = text.percent(found["loss_before"], value) or "-"
    return rows


def differing_settings(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, by dotted name, with each run's value."""
    flat = [dict(_flat(run.settings)) for run in runs]
    names = sorted({name for settings in flat for name in settings if not name.startswith(PLACES)})
    rows = [(name, [settings.get(name, "-") for settings in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(item)


def write_comparison(path: Path, runs: Sequence[ComparedRun]) -> None:
    """Write the page, which needs nothing beside it."""
    environment = Environment(
        loader=PackageLoader("flock_ray.telemetry"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    columns = [shown(figures(run)) for run in runs]
    page = environment.get_template("compare.html.jinja").render(
        runs=runs,
        figures=[(name, [column[name] for column in columns]) for name in columns[0]],
        settings=differing_settings(runs),
        drawing=runs_chart({run.label: run.losses for run in runs}),
    )
    write_text(path, page)
