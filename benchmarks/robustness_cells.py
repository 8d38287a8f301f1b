"""Which cells are played, in which order: the most telling first, so that a run that is cut short says something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from benchmarks.robustness_rows import BACKDOORS, SHARE, Row
from benchmarks.robustness_world import ODD, Cell
from flock_ray.adversary.part import changed_by
from flock_ray.protocol.mechanisms import get_mechanism

MECHANISMS = ("marginal", "marginal1", "flock", "open")
RULES = ("mean", "multi_krum")
POISON = (
    "gaussian", "gaussian@0.3", "zero", "sign_flip", "label_flip", "alie", "ipm", "min_max", "rescale", "gauge",
    "collude", "gaussian+boosting_vote",
)  # fmt: skip
"""They lower what the candidate is worth."""
FREE_RIDERS = (
    "resubmit", "resubmit@2", "resubmit@5", "resubmit@0.5", "resubmit@-1", "resubmit_older", "best_public",
    "others_payload", "copy_noise", "mimic", "resubmit+lazy_vote",
)  # fmt: skip
"""They train nothing."""
VOTERS = (
    "lazy_vote", "always_yes", "always_yes@0", "always_no", "negated_vote", "boosting_vote", "random_vote",
    "gaussian+boosting_vote", "resubmit+lazy_vote",
)  # fmt: skip
"""They vote lazily, a constant, the negated truth, for one another, or by chance."""
OTHERS = ("stale", "sybil", "bribed_vote", "targeted_vote", "nan", "wrong_shape", "wrong_dtype")
HEADLINE = tuple(
    dict.fromkeys((*POISON, *FREE_RIDERS, *VOTERS, *BACKDOORS, "one_step", "shared_training", "withheld_reveal"))
)
ATTACKS = (*HEADLINE, *OTHERS)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Of the curves."""
CURVES = 6
STAGES = (
    "headline", "clean", "odd", "flock", "open", "others", "multi_krum", "curves", "marginal1", "multi_krum_marginal",
)  # fmt: skip
"""In their order. All are of the mean, but those named after Multi-Krum."""

Played = Mapping[Cell, Row]


def applies(attack: str, mechanism: str) -> bool:
    """Whether the mechanism asks for anything that the attack changes."""
    rules = get_mechanism(mechanism)
    asked = {"ballot_a": rules.scores_proposals, "ballot_b": rules.scores_candidate}
    changed = changed_by(attack)
    return not changed or any(asked.get(method, True) for method in changed)


def attacked(mechanism: str, rule: str, attacks: Sequence[str], seeds: Sequence[int]) -> Iterator[Cell]:
    """Seed by seed the clean cell, and those of the attacks at 30 %."""
    for seed in seeds:
        yield Cell(mechanism, rule, "none", 0.0, seed)
        yield from (Cell(mechanism, rule, attack, SHARE, seed) for attack in attacks if applies(attack, mechanism))


def lost_gains(rows: Played, mechanism: str, rule: str, attack: str, share: float = SHARE) -> list[float]:
    """Of every seed that was played, with its clean cell."""
    return [
        row.lost_gain(rows[cell.clean])
        for cell, row in rows.items()
        if (cell.mechanism, cell.rule, cell.attack, cell.share) == (mechanism, rule, attack, share)
        and cell.clean in rows
    ]


def worst(rows: Played, count: int = CURVES) -> list[str]:
    """The attacks that cost the mean under `marginal` most at 30 %, of those that were played; the worst first."""
    lost = {attack: found for attack in HEADLINE if (found := lost_gains(rows, "marginal", "mean", attack))}
    return sorted(lost, key=lambda attack: -fmean(lost[attack]))[:count]


def cells_of(stage: str, seeds: Sequence[int], rows: Played) -> Iterator[Cell]:
    """The cells of a stage; those of the curves depend on what was played."""
    if stage == "headline":
        yield from attacked("marginal", "mean", HEADLINE, seeds)
    elif stage == "clean":
        for mechanism in MECHANISMS:
            yield from attacked(mechanism, "mean", (), seeds)
    elif stage == "odd":
        yield from (Cell("marginal", "mean", ODD, 0.0, seed) for seed in seeds)
    elif stage == "others":
        yield from attacked("marginal", "mean", OTHERS, seeds)
    elif stage == "curves":
        for attack in worst(rows):
            for mechanism in ("marginal", "open"):
                if applies(attack, mechanism):
                    yield from (
                        Cell(mechanism, "mean", attack, share, seed) for share in SHARES if share for seed in seeds
                    )
    elif stage.startswith("multi_krum"):
        for mechanism in ("marginal", "marginal1") if stage == "multi_krum_marginal" else ("open", "flock"):
            yield from attacked(mechanism, "multi_krum", ATTACKS, seeds)
    else:
        yield from attacked(stage, "mean", ATTACKS, seeds)
