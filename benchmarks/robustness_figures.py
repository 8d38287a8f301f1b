"""From rows to figures: what all attacks came to, beside what was aimed at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from benchmarks.robustness_cells import (
    ATTACKS,
    FREE_RIDERS,
    HEADLINE,
    MECHANISMS,
    POISON,
    RULES,
    SHARES,
    VOTERS,
    Played,
    applies,
    lost_gains,
    worst,
)
from benchmarks.robustness_rows import BACKDOORS, SHARE, Row
from benchmarks.robustness_world import LEFT_HANDED, NOISE, ODD, SHUFFLED, Cell

Figure = Callable[[Row, Row], float | None]
"""Of a row and of its clean cell's; None where there is none."""


def lost_gain(row: Row, clean: Row) -> float | None:
    """See `Row.lost_gain`."""
    return row.lost_gain(clean)


def proposer_leakage(row: Row, clean: Row) -> float | None:
    """Of the proposers' seats."""
    return row.proposers.leakage


def voter_leakage(row: Row, clean: Row) -> float | None:
    """Of the voters' seats."""
    return row.voters.leakage


def backdoor(row: Row, clean: Row) -> float | None:
    """The probability that the attack's trigger brings its token about."""
    return next(iter(row.backdoor.values()), None)


@dataclass(frozen=True)
class Sample:
    """A figure of one kind of cell over the seeds."""

    values: Sequence[float]

    @property
    def mean(self) -> float | None:
        """None if no seed has it."""
        return fmean(self.values) if self.values else None

    def json(self) -> list[float] | None:
        """Mean, lowest and highest."""
        return [fmean(self.values), min(self.values), max(self.values)] if self.values else None


def sample(
    rows: Played, figure: Figure, mechanism: str, attack: str, rule: str = "mean", share: float = SHARE
) -> Sample:
    """A figure of the cells of one attack, one a seed, whose clean cell was played."""
    found = [
        figure(row, rows[cell.clean])
        for cell, row in rows.items()
        if (cell.mechanism, cell.rule, cell.attack, cell.share) == (mechanism, rule, attack, share)
        and cell.clean in rows
    ]
    return Sample([value for value in found if value is not None])


def highest(
    rows: Played, figure: Figure, mechanism: str, attacks: Iterable[str], rule: str = "mean"
) -> tuple[float, str] | None:
    """The highest mean over the seeds, and whose; None unless every attack that applies was played."""
    means = []
    for attack in attacks:
        if applies(attack, mechanism):
            played = sample(rows, lost_gain, mechanism, attack, rule)
            if not played.values:
                return None
            if (mean := sample(rows, figure, mechanism, attack, rule).mean) is not None:
                means.append((mean, attack))
    return max(means, default=None)


def _of(rows: Played, mechanism: str, attack: str, share: float) -> list[Row]:
    return [row for cell, row in rows.items() if cell == Cell(mechanism, "mean", attack, share, cell.seed)]


def headline(rows: Played) -> tuple[dict[str, float], dict[str, str]]:
    """The figures that count, without those whose cells were not played; and which attack is behind the highest."""
    figures: dict[str, float | None] = {}
    behind = {}
    for name, found in (
        ("max_lost_gain_at_30pct", highest(rows, lost_gain, "marginal", HEADLINE)),
        ("max_proposer_leakage_at_30pct", highest(rows, proposer_leakage, "marginal", (*POISON, *FREE_RIDERS))),
        ("max_voter_leakage_at_30pct", highest(rows, voter_leakage, "marginal", VOTERS)),
        ("backdoor_success", highest(rows, backdoor, "marginal", BACKDOORS)),
        ("flock_rules_max_leakage_at_30pct", highest(rows, proposer_leakage, "flock", (*POISON, *FREE_RIDERS))),
        ("flock_rules_max_lost_gain_at_30pct", highest(rows, lost_gain, "flock", HEADLINE)),
        ("fedavg_max_lost_gain_at_30pct", highest(rows, lost_gain, "open", HEADLINE)),
        ("fedavg_backdoor_success", highest(rows, backdoor, "open", BACKDOORS)),
        ("multikrum_open_lost_gain", highest(rows, lost_gain, "open", HEADLINE, "multi_krum")),
    ):
        if found:
            figures[name], behind[name] = found
    for name in ("one_step", "shared_training"):
        figures[f"{name}_leakage"] = sample(rows, proposer_leakage, "marginal", name).mean
    withheld = _of(rows, "marginal", "withheld_reveal", SHARE)
    figures["epochs_lost_to_withheld_reveals"] = _ratio((row.lost, row.epochs) for row in withheld)
    figures |= {**_honest(rows), **_odd(rows), "gain_against_marginal1": _gain_against_marginal1(rows)}
    return {name: value for name, value in figures.items() if value is not None}, behind


def _honest(rows: Played) -> dict[str, float | None]:
    """How honest members fare under `marginal`: slashes in all cells, the outlier's too, acceptance without attacks."""
    ours = [(cell, row) for cell, row in rows.items() if (cell.mechanism, cell.rule) == ("marginal", "mean")]
    clean = [row for cell, row in ours if cell.attack == "none"]
    at_most_30 = [row for cell, row in ours if cell.share <= SHARE]
    return {
        "honest_slash_rate": _ratio((row.honest.slashes, row.honest.seats) for row in at_most_30),
        "honest_accept_rate": _ratio((row.honest.accepted, row.honest.proposals) for row in clean),
        "honest_fee_rate": _ratio(
            (row.honest.fees, row.proposers.paid + row.voters.paid) for row in clean
        ),
        "backdoor_success_untaught": max(
            (fmean(row.backdoor[name] for row in clean) for name in BACKDOORS if clean), default=None
        ),
    }  # fmt: skip


def _odd(rows: Played) -> dict[str, float | None]:
    """What became of the members whose data is odd."""
    odd = _of(rows, "marginal", ODD, 0.0)
    left = _ratio((row.accepted[LEFT_HANDED], row.proposed[LEFT_HANDED]) for row in odd)
    others = [[net for member, net in enumerate(row.net) if member not in (*row.dishonest, LEFT_HANDED)] for row in odd]
    return {
        "left_handed_accepted": left,
        "left_handed_net_over_honest_mean": _net(odd, LEFT_HANDED, others),
        "shuffled_net_over_honest_mean": _net(odd, SHUFFLED, others),
        "noise_net_over_honest_mean": _net(odd, NOISE, others),
    }


def _net(odd: Sequence[Row], member: int, others: Sequence[Sequence[float]]) -> float | None:
    return _ratio((row.net[member], fmean(rest)) for row, rest in zip(odd, others, strict=True))


def _gain_against_marginal1(rows: Played) -> float | None:
    pairs = []
    for cell, row in rows.items():
        other = rows.get(Cell("marginal1", cell.rule, cell.attack, cell.share, cell.seed))
        if cell.mechanism == "marginal" and cell.rule == "mean" and cell.attack == "none" and other:
            pairs.append((row.gain(row.honest_members), other.gain(other.honest_members)))
    return _ratio(pairs)


def _ratio(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Sum over sum; None over nothing."""
    found = list(pairs)
    under = sum(one for _, one in found)
    return sum(one for one, _ in found) / under if under else None


def table(rows: Played) -> list[dict[str, Any]]:
    """A line for each attack at 30 % under each mechanism and rule that was played, and for what was clean."""
    lines = []
    for mechanism in MECHANISMS:
        for rule in RULES:
            for attack, share in (("none", 0.0), *((attack, SHARE) for attack in ATTACKS)):
                found = {cell: row for cell, row in rows.items()
                         if cell == Cell(mechanism, rule, attack, share, cell.seed)}  # fmt: skip
                if found:
                    lines.append(_line(rows, found, mechanism, rule, attack, share))
    return lines


def _line(rows: Played, found: Played, mechanism: str, rule: str, attack: str, share: float) -> dict[str, Any]:
    """Mean, lowest and highest over the seeds of what has them; sums over the seeds of what is counted."""
    few = list(found.values())
    sampled = {
        figure.__name__: sample(rows, figure, mechanism, attack, rule, share).json()
        for figure in (lost_gain, proposer_leakage, voter_leakage, backdoor)
    }
    return {
        "mechanism": mechanism, "rule": rule, "attack": attack, "share": share,
        "seeds": sorted(cell.seed for cell in found), **sampled,
        "honest_gain": Sample([row.gain(row.honest_members) for row in few]).json(),
        "honest_gain_spread": Sample([_spread(row) for row in few]).json(),
        "honest_accept_rate": _ratio((row.honest.accepted, row.honest.proposals) for row in few),
        "dishonest_accept_rate": _ratio((row.others.accepted, row.others.proposals) for row in few),
        "honest_slash_rate": _ratio((row.honest.slashes, row.honest.seats) for row in few),
        "dishonest_slashes": sum(row.others.slashes for row in few),
        "honest_fees": sum(row.honest.fees for row in few),
        "dishonest_fees": sum(row.others.fees for row in few),
        "epochs_lost": sum(row.lost for row in few),
        "epochs": sum(row.epochs for row in few),
    }  # fmt: skip


def _spread(row: Row) -> float:
    """Standard deviation of what each honest member gained, over its mean."""
    gains = [row.before[member] - row.after[member] for member in row.honest_members]
    return pstdev(gains) / fmean(gains)


def curves(rows: Played) -> list[dict[str, Any]]:
    """Lost gain over the share of the members that cheat, of the worst attacks: what was played of it."""
    lines = []
    for attack in worst(rows):
        for mechanism in MECHANISMS:
            points = {0.0: [0.0]} | {share: lost_gains(rows, mechanism, "mean", attack, share) for share in SHARES[1:]}
            shown = [[share, *(Sample(found).json() or ())] for share, found in points.items() if found]
            if len(shown) == len(SHARES):
                lines.append({"attack": attack, "mechanism": mechanism, "lost_gain": shown})
    return lines
