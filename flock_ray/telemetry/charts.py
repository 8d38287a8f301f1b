"""The charts of the report, as SVG text for a page that brings the colours.

matplotlib draws with stand-in colours, which are then replaced by CSS variables: so one chart reads well on a light and
on a dark page. Text stays text. The same values give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flock_ray.telemetry import text
from flock_ray.telemetry.summary import silo_labels
from flock_ray.telemetry.views import PHASES, EpochView, MemberEpoch

MAX_COLOURED = 10
"""With more members than this, their lines are drawn alike and only the mean is named."""

MAX_TICKS = 12
MAX_MEMBERS = 64
"""Rows of a chart by member."""

_NAMES = ("ink", "muted", "grid", "surface", "good", "bad", *(f"c{i}" for i in range(1, 11)))
_STAND_IN = {name: f"#0f1e{index:02x}" for index, name in enumerate(_NAMES)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "flock_ray",
    "font.size": 9,
    "axes.unicode_minus": False,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _STAND_IN["grid"],
    "axes.labelcolor": _STAND_IN["muted"],
    "text.color": _STAND_IN["ink"],
    "xtick.color": _STAND_IN["grid"],
    "ytick.color": _STAND_IN["grid"],
    "xtick.labelcolor": _STAND_IN["muted"],
    "ytick.labelcolor": _STAND_IN["ink"],
    "grid.color": _STAND_IN["grid"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def loss_chart(epochs: Sequence[EpochView]) -> str:
    """Held-out loss of every silo, nats a token, before the first epoch and after each."""

    def draw(axes: Axes) -> None:
        shown = _shown(epochs)
        labels = silo_labels(shown)
        ends: list[tuple[float, str, str]] = []
        few = len(labels) <= MAX_COLOURED
        for position, member in enumerate(shown):
            rows = [_row(epoch, member.index) for epoch in epochs]
            losses = [rows[0].loss_before if rows[0] else None, *(row.loss_after if row else None for row in rows)]
            points = [(x, loss) for x, loss in enumerate(losses) if loss is not None]
            if not points:
                continue
            colour = _STAND_IN[f"c{position + 1}" if few else "grid"]
            dashes = (0, (4, 2)) if member.adversary else "solid"
            axes.plot(
                *zip(*points, strict=True), color=colour, linewidth=1.4, linestyle=dashes, marker="o", markersize=3
            )
            if few:
                name = labels[member.index] + (" (adversary)" if member.adversary else "")
                ends.append((points[-1][1], name, colour))
        means = [epochs[0].honest_loss_before, *(epoch.honest_loss_after for epoch in epochs)]
        points = [(x, mean) for x, mean in enumerate(means) if mean is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=_STAND_IN["ink"], linewidth=2.6, marker="o", markersize=4)
            ends.append((points[-1][1], "mean of honest silos", _STAND_IN["ink"]))
        _label_ends(axes, len(epochs), ends)
        names = ["start", *(f"epoch {epoch.epoch}" for epoch in epochs)]
        step = -(-len(names) // MAX_TICKS)
        axes.set_xticks(range(0, len(names), step), names[::step])
        axes.set_xlim(-0.15, len(epochs) * 1.32)
        axes.set_ylabel("held-out loss, nats a token")
        axes.grid(axis="y")
        _cover(axes, "y")

    return _svg("loss", draw, height=3.8)


def change_chart(epochs: Sequence[EpochView]) -> str:
    """Change of every silo's held-out loss over all epochs, nats a token; beside a bar, the change in percent."""

    def draw(axes: Axes) -> None:
        _member_axis(axes, epochs)
        for position, one in enumerate(_shown(epochs)):
            rows = [row for epoch in epochs if (row := _row(epoch, one.index))]
            before = next((row.loss_before for row in rows if row.loss_before is not None), None)
            after = next((row.loss_after for row in reversed(rows) if row.loss_after is not None), None)
            if before is None or after is None:
                continue
            change = after - before
            axes.barh(position, change, height=0.62, color=_STAND_IN["good" if change < 0 else "bad"])
            axes.annotate(
                text.percent(before, after), (change, position), (4 if change > 0 else -4, 0),
                textcoords="offset points", ha="left" if change > 0 else "right", va="center", fontsize=8,
            )  # fmt: skip
        axes.axvline(0, color=_STAND_IN["muted"], linewidth=0.8)
        axes.margins(x=0.16)
        axes.set_xlabel("change of the held-out loss, nats a token")
        axes.grid(axis="x")
        _cover(axes, "x")

    return _svg("change", draw, height=0.8 + 0.3 * len(_shown(epochs)))


def step_chart(epochs: Sequence[EpochView]) -> str:
    """Training loss of every proposer at each local step, their mean, and the learning rate."""

    def draw(axes: Axes) -> None:
        rates, start = list[tuple[float, float]](), 0
        for epoch in epochs:
            longest = max([len(epoch.rates), *map(len, epoch.steps.values())])
            for losses in list(epoch.steps.values())[:MAX_MEMBERS]:
                steps = range(start + 1, start + 1 + len(losses))
                axes.plot(steps, losses, color=_STAND_IN["grid"], linewidth=1.0, marker=".", markersize=3)
            means = [fmean(at) for at in zip(*epoch.steps.values(), strict=False)]
            steps = range(start + 1, start + 1 + len(means))
            axes.plot(steps, means, color=_STAND_IN["c1"], linewidth=2.2, marker="o", markersize=3)
            rates += [(start + 1 + step, rate) for step, rate in enumerate(epoch.rates)] if epoch.steps else []
            start += longest
            if epoch is not epochs[-1]:
                axes.axvline(start + 0.5, color=_STAND_IN["muted"], linewidth=0.6)
        axes.set_xlabel("local step")
        axes.set_ylabel("training loss, nats a token")
        axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=True))
        axes.grid(axis="y")
        _cover(axes, "y")
        right = axes.twinx()
        right.plot(*zip(*rates, strict=True), color=_STAND_IN["c2"], linewidth=1.2, linestyle=(0, (4, 2)))
        right.set_ylabel("learning rate")
        right.set_ylim(bottom=0)
        right.tick_params(length=0, labelcolor=_STAND_IN["muted"])
        right.ticklabel_format(axis="y", style="plain")
        _cover(right, "y")

    return _svg("steps", draw, height=3.2)


def runs_chart(losses: Mapping[str, Sequence[float | None]]) -> str:
    """Mean held-out loss of several runs, {label: before the first epoch, and after each}, nats a token."""

    def draw(axes: Axes) -> None:
        ends: list[tuple[float, str, str]] = []
        longest = max((len(values) for values in losses.values()), default=1) - 1
        for position, (label, values) in enumerate(losses.items()):
            points = [(x, loss) for x, loss in enumerate(values) if loss is not None]
            if not points:
                continue
            colour = _STAND_IN[f"c{position % MAX_COLOURED + 1}"]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, marker="o", markersize=3.5)
            ends.append((points[-1][1], label, colour))
        _label_ends(axes, max(longest, 1), ends)
        names = ["start", *(f"epoch {epoch}" for epoch in range(1, longest + 1))]
        step = -(-len(names) // MAX_TICKS)
        axes.set_xticks(range(0, len(names), step), names[::step])
        axes.set_xlim(-0.15, max(longest, 1) * 1.4)
        axes.set_ylabel("mean held-out loss, nats a token")
        axes.grid(axis="y")
        _cover(axes, "y")

    return _svg("runs", draw, height=3.8)


def score_chart(epochs: Sequence[EpochView]) -> str:
    """Score of every proposal by member, nats a token, on a scale with a logarithm, with the acceptance band."""

    def draw(axes: Axes) -> None:
        _member_axis(axes, epochs)
        band = max((epoch.band or 0 for epoch in epochs), default=0) / 1e6
        axes.axvspan(-band, band, color=_STAND_IN["grid"], alpha=0.45, linewidth=0)
        axes.axvline(0, color=_STAND_IN["muted"], linewidth=0.8)
        for order, epoch in enumerate(epochs):
            lane = 0.5 * (order + 0.5) / len(epochs) - 0.25
            for position, one in enumerate(_shown(epochs)):
                member = _row(epoch, one.index)
                if member is None or member.score is None:
                    continue
                colour = "good" if member.status == "accepted" else "bad" if member.cheated else "muted"
                marker = "X" if member.cheated else "o"
                fill = _STAND_IN["surface" if colour == "muted" else colour]
                point = (member.score / 1e6, position + lane)
                axes.plot(*point, marker, color=fill, markeredgecolor=_STAND_IN[colour], markersize=6)
                axes.annotate(
                    str(epoch.epoch), point, (5, 0), textcoords="offset points", va="center", fontsize=7.5,
                    color=_STAND_IN["muted"],
                )  # fmt: skip
        threshold = 4 * max(band, 1e-3)
        axes.set_xscale("symlog", linthresh=threshold)
        _decimal_ticks(axes, threshold)
        axes.set_xlabel("score, nats a token (linear in the middle, logarithmic outside); the number is the epoch")
        axes.grid(axis="x")

    return _svg("scores", draw, height=0.9 + 0.34 * len(_shown(epochs)))


def standings_chart(points: Sequence[tuple[str, float, float, str]]) -> str:
    """Submissions of a contest's day in the order given: (name, nats a token behind the leader, error, colour)."""

    def draw(axes: Axes) -> None:
        shown = points[:MAX_MEMBERS]
        axes.set_yticks(range(len(shown)), [name for name, *_ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.7)
        if len(points) > len(shown):
            axes.set_title(f"the first {len(shown)} of {len(points)}", fontsize=8.5, loc="left")
        for position, (_, behind, error, colour) in enumerate(shown):
            axes.errorbar(behind, position, xerr=error, fmt="o", markersize=5, linewidth=1.4, capsize=3,
                          color=_STAND_IN[colour])  # fmt: skip
        axes.axvline(0, color=_STAND_IN["muted"], linewidth=0.8)
        distances = sorted(abs(behind) for _, behind, _, _ in shown)
        middle = distances[len(distances) // 2] if distances else 0.0
        if middle and distances[-1] > 8 * middle:
            axes.set_xscale("symlog", linthresh=2 * middle)
            _decimal_ticks(axes, 2 * middle)
            axes.set_xlabel("nats a token behind the leader (linear in the middle, logarithmic outside)")
        else:
            _cover(axes, "x")
            axes.set_xlabel("nats a token behind the leader")
        axes.grid(axis="x")

    return _svg("standings", draw, height=0.9 + 0.3 * min(len(points), MAX_MEMBERS))


def money_chart(epochs: Sequence[EpochView]) -> str:
    """Rewards (right) and slashes (left) of every member, in tokens, one piece an epoch."""

    def draw(axes: Axes) -> None:
        _member_axis(axes, epochs)
        for position, one in enumerate(_shown(epochs)):
            rows = [row for epoch in epochs if (row := _row(epoch, one.index))]
            for sign, colour in ((1, "good"), (-1, "bad")):
                amounts = [row.reward if sign > 0 else row.slashed for row in rows]
                left = 0.0
                for amount in filter(None, amounts):
                    width = sign * amount / 10**18
                    axes.barh(
                        position, width, left=left, height=0.62, color=_STAND_IN[colour],
                        edgecolor=_STAND_IN["surface"], linewidth=0.8,
                    )  # fmt: skip
                    left += width
                if left:
                    axes.annotate(
                        text.tokens(sign * sum(amounts), signed=True), (left, position), (4 * sign, 0),
                        textcoords="offset points", ha="left" if sign > 0 else "right", va="center", fontsize=8,
                    )  # fmt: skip
        axes.axvline(0, color=_STAND_IN["muted"], linewidth=0.8)
        axes.margins(x=0.16)
        axes.set_xlabel("tokens")
        axes.grid(axis="x")
        _cover(axes, "x")

    return _svg("money", draw, height=0.8 + 0.3 * len(_shown(epochs)))


def time_chart(epochs: Sequence[EpochView]) -> str:
    """Wall time of every epoch by phase, seconds."""

    def draw(axes: Axes) -> None:
        used = [phase for phase in PHASES if any(epoch.wall_seconds.get(phase) for epoch in epochs)]
        left = [0.0] * len(epochs)
        longest = max((sum(epoch.wall_seconds.values()) for epoch in epochs), default=0.0)
        for phase in used:
            widths = [epoch.wall_seconds.get(phase, 0.0) for epoch in epochs]
            colour = "muted" if phase == "overhead" else f"c{PHASES.index(phase) + 1}"
            axes.barh(
                range(len(epochs)), widths, left=left, height=0.62, label=phase, color=_STAND_IN[colour],
                edgecolor=_STAND_IN["surface"], linewidth=0.8,
            )  # fmt: skip
            for row, width in enumerate(widths):
                if width > 0.06 * longest:
                    axes.text(
                        left[row] + width / 2, row, f"{width:.0f}", ha="center", va="center", fontsize=8,
                        color=_STAND_IN["surface"],
                    )  # fmt: skip
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(epochs)), [f"epoch {epoch.epoch}" for epoch in epochs])
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        axes.grid(axis="x")
        _cover(axes, "x")
        if used:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(used), fontsize=8, columnspacing=1.2,
                        handlelength=1, handleheight=1)  # fmt: skip

    return _svg("time", draw, height=1.1 + 0.36 * len(epochs))


def _svg(name: str, draw: Callable[[Axes], None], *, height: float) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, height), layout="constrained")
        axes = figure.subplots()
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for variable, stand_in in _STAND_IN.items():
        svg = svg.replace(stand_in, f"var(--{variable})")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Several charts share a page: ids must differ. The size is left to the page.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"|(<svg[^>]*?) height="[^"]*"', r"\1\2", svg, count=1)


def _member_axis(axes: Axes, epochs: Sequence[EpochView]) -> None:
    members = _shown(epochs)
    labels = silo_labels(members)
    names = [labels[member.index] + (" (adversary)" if member.adversary else "") for member in members]
    axes.set_yticks(range(len(members)), names)
    axes.set_ylim(len(members) - 0.4, -0.7)
    if more := len(_everybody(epochs)) - len(members):
        axes.set_title(f"the first {len(members)} members; {more} more are in summary.json", fontsize=8.5, loc="left")


def _everybody(epochs: Sequence[EpochView]) -> list[MemberEpoch]:
    """A row of each member that any of the epochs has, by ascending number: the first one."""
    rows = {member.index: member for epoch in reversed(epochs) for member in epoch.members}
    return [rows[index] for index in sorted(rows)]


def _shown(epochs: Sequence[EpochView]) -> list[MemberEpoch]:
    """Those that a chart has room for."""
    return _everybody(epochs)[:MAX_MEMBERS]


def _row(epoch: EpochView, index: int) -> MemberEpoch | None:
    """A member in an epoch, if it was in the task by then."""
    return next((member for member in epoch.members if member.index == index), None)


def _label_ends(axes: Axes, x: int, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the last points, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.052 * (high - low)
    heights = list(_spread(sorted(end[0] for end in ends), gap))
    for (value, name, colour), height in zip(sorted(ends), heights, strict=True):
        axes.annotate(
            name, (x, value), (x + 0.06 * x + 0.02, height), va="center", fontsize=8.5, color=colour,
            arrowprops={"arrowstyle": "-", "color": _STAND_IN["grid"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
    if heights:
        axes.set_ylim(min(low, heights[0] - gap), max(high, heights[-1] + gap))


def _spread(values: Sequence[float], gap: float) -> Iterator[float]:
    """Ascending values pushed up until neighbours are `gap` apart, then centred on where they were."""
    placed: list[float] = []
    for value in values:
        placed.append(max(value, placed[-1] + gap) if placed else value)
    shift = sum(new - old for new, old in zip(placed, values, strict=True)) / max(len(placed), 1)
    return (value - shift for value in placed)


def _cover(axes: Axes, which: str) -> None:
    """Let the axis begin and end with a tick, so that every point lies between two that are named."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    get, put = (axes.get_xlim, axes.set_xlim) if which == "x" else (axes.get_ylim, axes.set_ylim)
    low, high = sorted(get())
    ticks = [float(tick) for tick in axis.get_major_locator().tick_values(low, high)]
    if len(ticks) > 1 and all(map(isfinite, ticks)):
        step = ticks[1] - ticks[0]
        while ticks[0] > low:
            ticks.insert(0, ticks[0] - step)
        while ticks[-1] < high:
            ticks.append(ticks[-1] + step)
        inner = [tick for tick in ticks if low - step < tick < high + step]
        axis.set_ticks(inner)
        put(inner[0], inner[-1])


def _decimal_ticks(axes: Axes, threshold: float) -> None:
    """Half the linear part, and the powers of ten beyond it, of both signs, until all data lie between two of them."""
    low, high = axes.get_xlim()
    powers = [threshold / 2, *(10.0**exponent for exponent in range(-4, 4) if 10.0**exponent > 1.5 * threshold)]
    low = -next((power for power in powers if -power <= low), powers[-1]) if low < 0 else low
    high = next((power for power in powers if power >= high), powers[-1]) if high > 0 else high
    axes.set_xlim(low, high)
    ticks = (
        [-power for power in reversed(powers) if -power >= low] + [0.0] + [power for power in powers if power <= high]
    )
    axes.set_xticks(ticks, [f"{tick:+.2g}" if tick else "0" for tick in ticks])
    axes.minorticks_off()
