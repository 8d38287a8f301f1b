"""How voters lie."""

from __future__ import annotations

from dataclasses import replace
from statistics import pstdev

import pytest

from flock_ray.adversary.behaviour import Candidate, Proposal
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.message import Kind, Message
from tests.adversary.worlds import COALITION, STATE, Tensors, acting, vector

CEILING = STATE.terms.band_ceiling
MEASURED = {7: -300, 1: 900, 4: 100, 6: 2000}


def said(name: str, world: Tensors | None = None, member: int = 5) -> dict[int, int]:
    """What the voter reports of each proposal."""
    behaviour, context = acting(name, member, world)
    return {one: behaviour.ballot_a(context, Proposal(one, MEASURED), gain) for one, gain in MEASURED.items()}


def of_candidate(name: str, gain: int = 500) -> int:
    behaviour, context = acting(name, 5)
    return behaviour.ballot_b(context, Candidate({1: 1, 6: 1}), gain)


@pytest.mark.parametrize(
    ("name", "vote"),
    [("always_yes", 2 * CEILING), ("always_yes@0.4", 8_000), ("always_yes@0", 0), ("always_no", -8 * CEILING)],
)
def test_a_constant_is_said_of_everything(name: str, vote: int) -> None:
    assert set(said(name).values()) == {vote} == {of_candidate(name)}
    if name == "always_no":
        assert vote < -STATE.terms.harmful_factor * CEILING


def test_random_votes_have_their_size_and_stay_the_same() -> None:
    behaviour, context = acting("random_vote@0.5", 5)
    drawn = [behaviour.ballot_a(context, Proposal(one, {}), 0) for one in range(400)]
    assert pstdev(drawn) == pytest.approx(0.5 * CEILING, rel=0.1) and len(set(drawn)) > 390
    assert said("random_vote") == said("random_vote") != said("random_vote", member=1)


def test_a_lazy_voter_says_the_last_median() -> None:
    assert set(said("lazy_vote").values()) == {3 * CEILING}  # nothing was agreed on yet
    history = [{0: vector(1)}, {0: vector(2)}]
    scored = [{0: 1, 1: 2, 2: 3}, {3: 10, 4: 20, 5: 30, 6: 900}]
    world = Tensors(adapters=[vector(100)] * 3, history=history, scores=scored)
    assert set(said("lazy_vote", world).values()) == {20}
    assert set(said("lazy_vote", replace(world, scores=[scored[0], {}])).values()) == {2}


def test_a_negated_vote_spares_the_candidate() -> None:
    assert said("negated_vote") == {one: -gain for one, gain in MEASURED.items()}
    assert of_candidate("negated_vote") == 500


def test_a_bribed_vote_lifts_the_briber_alone() -> None:
    """The first accomplice pays: member 1."""
    assert said("bribed_vote") == {**MEASURED, min(COALITION): 2000}
    assert said("bribed_vote@2")[1] == 4000 and of_candidate("bribed_vote") == 500


def test_a_targeted_vote_hits_one_honest_member_in_every_epoch() -> None:
    victims = set()
    for member in COALITION:
        for epoch in (1, 2, 3):
            behaviour, context = acting("targeted_vote", member, epoch=epoch)
            votes = {one: behaviour.ballot_a(context, Proposal(one, {}), 7) for one in range(8)}
            victims |= {one for one, vote in votes.items() if vote != 7}
            assert sorted(votes.values())[:2] == [-1_000_000, 7]
    assert len(victims) == 1 and not victims & set(COALITION)


def test_a_boosting_vote_lifts_accomplices_and_sinks_others() -> None:
    assert said("boosting_vote") == {7: -1_000_000, 1: 1_009_000, 4: 1_001_000, 6: -1_000_000}
    assert of_candidate("boosting_vote") == 500


def message(kind: Kind) -> Message:
    return Message(kind, STATE.scope.task, 1, 5, {"commitment": to_hex(bytes(32))})


def test_a_withheld_reveal_is_of_the_ballot_on_the_candidate() -> None:
    behaviour, context = acting("withheld_reveal", 5)
    for kind in Kind:
        assert list(behaviour.messages(context, message(kind))) == ([] if kind is Kind.BALLOT_B else [message(kind)])


def test_reveals_are_withheld_in_a_share_of_the_epochs_by_all_accomplices() -> None:
    withheld = []
    for epoch in range(1, 200):
        answers = set()
        for member in (1, 5):
            behaviour, context = acting("withheld_reveal@0.3", member, epoch=epoch)
            answers.add(len(behaviour.messages(context, message(Kind.BALLOT_B))))
        assert len(answers) == 1
        withheld.append(answers == {0})
    assert 0.2 < sum(withheld) / len(withheld) < 0.4
