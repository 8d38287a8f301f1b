"""How often a committee is captured: drawn a hundred thousand times by the protocol, beside the closed form.

A committee is captured where the dishonest seats alone say what a proposal scores: they report one number, all honest
seats another, and the protocol's consensus is theirs. `capture_risk` says how often that is, without drawing any. The
retention that follows, below and above kappa of a drawn committee, is a test: `tests/protocol/test_capture.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.common import environment, step, store
from flock_ray.protocol.capture import capture_risk
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.roles import draw_seats, quorum
from flock_ray.protocol.verdict import quantile

DRAWS, QUICK_DRAWS = 100_000, 2_000
KAPPA = 5_000
TASK = sha256(b"benchmarks/capture")
COMMITTEES = {
    "default": (8, 2, 4),
    "5_of_64": (64, 19, 5),
    "13_of_20": (20, 6, 13),
    "29_of_64": (64, 19, 29),
    "43_of_256": (256, 76, 43),
}
"""Name -> slots, dishonest ones, voters."""


@dataclass(frozen=True)
class Point:
    """One committee; shares are of the epochs.

    Attributes:
        slots, malicious, voters: of the task, and drawn.
        drawn: share of the drawn committees that are captured, and its standard error.
        expected: by the closed form.
        quorum, blocked: by the closed form: dishonest seats are a quorum; honest ones are none, as when all dishonest
            voters withhold their reveals.
        drawn_blocked: share of the drawn committees whose honest seats are no quorum.
    """

    slots: int
    malicious: int
    voters: int
    drawn: float
    standard_error: float
    expected: float
    quorum: float
    blocked: float
    drawn_blocked: float


def captured(seats: Sequence[int], malicious: int) -> bool:
    """Whether the consensus is what slots 0 to `malicious` - 1 say, one way or the other."""
    return any(quantile([lie if slot < malicious else 0 for slot in seats], KAPPA) == lie for lie in (-1, 1))


def measure(slots: int, malicious: int, voters: int, draws: int) -> Point:
    """Draw the committees of so many epochs."""
    seed, caught, blocked = sha256(b"seed"), 0, 0
    for epoch in range(1, draws + 1):
        seats = draw_seats(seed, TASK, epoch, slots, voters)
        caught += captured(seats, malicious)
        blocked += sum(slot >= malicious for slot in seats) < quorum(voters)
    risk = capture_risk(slots, malicious, voters, KAPPA)
    error = math.sqrt(risk.median * (1 - risk.median) / draws)
    return Point(
        slots, malicious, voters, caught / draws, error, risk.median, risk.quorum, risk.blocked, blocked / draws
    )


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Draw all committees and store what came of it."""
    if overrides:
        raise SystemExit("error: this benchmark takes no overrides")
    points = {}
    for name, committee in COMMITTEES.items():
        with step(f"drawing {committee[2]} of {committee[0]} slots"):
            points[name] = measure(*committee, QUICK_DRAWS if quick else DRAWS)
    furthest = max(
        abs(point.drawn - point.expected) / point.standard_error for point in points.values() if point.standard_error
    )
    result: dict[str, Any] = {
        "headline": {
            "capture_default_two_dishonest": points["default"].drawn,
            "capture_5_of_64": points["5_of_64"].drawn,
            "capture_29_of_64": points["29_of_64"].drawn,
            "capture_furthest_from_closed_form_in_errors": furthest,
        },
        "points": {name: asdict(point) for name, point in points.items()},
        "environment": environment(),
    }
    store("capture", result, quick)
