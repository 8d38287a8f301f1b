from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.contest_consensus import RULES, Voice, consensus_score

WORST = 10**15

VOICES = st.dictionaries(
    st.integers(0, 99),
    st.builds(Voice, st.integers(-(10**9), 10**9), st.integers(1, 3), st.integers(1, 10**24)),
    min_size=1,
    max_size=13,
)


@pytest.mark.parametrize("rule", RULES)
@given(voices=VOICES, data=st.data())
def test_the_consensus_lies_among_the_scores_whatever_their_order(
    rule: str, voices: dict[int, Voice], data: st.DataObject
) -> None:
    score = consensus_score(voices, rule, WORST)
    scores = [voice.score for voice in voices.values()]
    assert min(scores) <= score <= max(scores)
    order = data.draw(st.permutations(sorted(voices)))
    assert score == consensus_score({member: voices[member] for member in order}, rule, WORST)
    assert consensus_score({1000 - member: voice for member, voice in voices.items()}, rule, WORST) == score


def committee(lie: int, liars: int, seats: int = 13) -> dict[int, Voice]:
    return {i: Voice(lie if i < liars else 1_000_000 + 10 * i, 1, 10**21) for i in range(seats)}


@pytest.mark.parametrize("lie", [-(10**12), 10**12])
def test_a_lying_minority_moves_the_mean_at_will_and_the_median_within_the_honest_scores(lie: int) -> None:
    """4 of 13 seats lie: the median moves by at most the honest spread, the mean by a third of the lie."""
    voices = committee(lie, 4)
    honest = [voice.score for voice in voices.values() if voice.score != lie]
    assert min(honest) <= consensus_score(voices, "median", WORST) <= max(honest)
    assert abs(consensus_score(voices, "mean", WORST)) > 10**11
    assert abs(consensus_score(voices, "trimmed", WORST)) > 10**10  # a fifth is cut, four of thirteen are more
    assert abs(consensus_score(committee(lie, 2), "trimmed", WORST)) < 1_000_200


def test_seats_and_stakes_weigh() -> None:
    voices = {0: Voice(0, 1, 9), 1: Voice(100, 3, 1)}
    assert consensus_score(voices, "median", WORST) == 100
    assert consensus_score(voices, "mean", WORST) == 10
    assert consensus_score({0: Voice(0, 1, 0), 1: Voice(100, 3, 0)}, "mean", WORST) == 75
    assert consensus_score(voices, "trimmed", WORST) == 75


def test_no_finite_loss_enters_no_mean() -> None:
    voices = {0: Voice(WORST, 1, 10**30), 1: Voice(100, 1, 1), 2: Voice(300, 1, 1)}
    for rule in RULES:
        assert 100 <= consensus_score(voices, rule, WORST) <= 300
        assert consensus_score(voices | {3: Voice(WORST, 2, 1)}, rule, WORST) == WORST
