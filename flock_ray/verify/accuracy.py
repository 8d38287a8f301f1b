"""How well voters' scores fit the proposals that they are of: who has a voice, and what a voter weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flock_ray.protocol.state import TaskState
from flock_ray.verify.draw import Seats
from flock_ray.verify.scores import Electorate, lower_median, upper_median

ACCURACY = "accuracy"
"""What the state keeps of a voter, in millionths, once it is known."""

MILLION = 10**6
_VOICELESS_PART = 3  # one seat in so many may lose its voice
_AVERAGED = 4  # epochs that a moving average is of


def voiceless_of(state: TaskState, seats: Seats) -> frozenset[int]:
    """The voters that have no voice in the epoch of `state`."""
    known = {
        voter: state.members[voter].noted[ACCURACY]
        for voter in set(seats.voters)
        if ACCURACY in state.members[voter].noted
    }
    if not known:
        return frozenset()
    least = upper_median(known.values()) // 4
    left, lost = len(seats.voters) // _VOICELESS_PART, set[int]()
    for accuracy, voter in sorted((accuracy, voter) for voter, accuracy in known.items()):
        left -= seats.voters.count(voter)
        if accuracy >= least or left < 0:
            break
        lost.add(voter)
    return frozenset(lost)


def accuracy_of(voter: int, gains: Sequence[Mapping[int, int]], electorate: Electorate, least: int) -> int | None:
    """How much better a voter's scores fit their own proposals than other ones, in millionths.

    Args:
        voter: whose scores are measured.
        gains: {voter: residual score} of each proposal that was scored.
        electorate: of the epoch.
        least: differences are measured by no less, micro-nats a token.

    Returns:
        None where fewer than two proposals were scored by others.
    """
    own, others = list[int | None](), list[int]()
    for scores in gains:
        rest = {other: gain for other, gain in scores.items() if other != voter}
        if rest:
            own.append(scores.get(voter))
            others.append(lower_median([rest[other] for other in electorate.counted(rest)]))
    count = len(others)
    if count < 2:
        return None
    fits = [[_fit(score, other, least) for other in others] for score in own]
    matched = sum(fits[i][i] for i in range(count))
    crossed = sum(map(sum, fits)) - matched
    return matched // count - crossed // (count * (count - 1))


def _fit(score: int | None, other: int, least: int) -> int:
    return 0 if score is None else max(0, MILLION - MILLION * abs(score - other) // max(least, abs(other)))


def moved(accuracy: int, newest: int) -> int:
    """The moving average after a new value."""
    return accuracy + (newest - accuracy) // _AVERAGED


def weights_of(accuracies: Mapping[int, int], seats: Seats) -> dict[int, int]:
    """{voter: weight} by the accuracies of those present: seats times what is above a quarter of the median."""
    if not accuracies:
        return {}
    above = {voter: max(0, accuracy) for voter, accuracy in accuracies.items()}
    least = upper_median(above.values()) // 4
    return {voter: max(0, accuracy - least) * seats.voters.count(voter) for voter, accuracy in sorted(above.items())}
