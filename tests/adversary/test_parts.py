"""What a configuration calls behaviours."""

from __future__ import annotations

import pytest
import torch

from flock_ray.adversary.behaviour import AS_PROPOSER, AS_VOTER, Candidate, Proposal
from flock_ray.adversary.part import changed_by, parts
from flock_ray.adversary.registry import BEHAVIOURS
from flock_ray.errors import ConfigError
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.protocol.message import Kind, Message
from tests.adversary.worlds import STATE, A, B, Tensors, acting, moved, sent, vector


def test_a_member_may_propose_by_one_behaviour_and_vote_by_another() -> None:
    assert canonical_bytes(sent("gaussian+boosting_vote")) == canonical_bytes(sent("gaussian"))
    behaviour, context = acting("gaussian+negated_vote")
    assert behaviour.ballot_a(context, Proposal(7), 5) == -5 and behaviour.ballot_b(context, Candidate(), 5) == 5
    behaviour, context = acting("none+withheld_reveal")
    kinds = {kind: Message(kind, STATE.scope.task, 1, 1, {}) for kind in Kind}
    assert [kind for kind in Kind if not behaviour.messages(context, kinds[kind])] == [Kind.BALLOT_B]
    assert canonical_bytes(sent("none+withheld_reveal")) == canonical_bytes(vector(1))
    honest_votes, context = acting("sign_flip+none")
    assert honest_votes.ballot_a(context, Proposal(7), 5) == 5
    assert torch.equal(sent("sign_flip+none")[B], -3 * vector(1)[B])


def test_each_part_has_a_strength_of_its_own() -> None:
    assert torch.equal(sent("sign_flip@2+negated_vote@7")[B], -2 * vector(1)[B])
    behaviour, context = acting("sign_flip@2+negated_vote@7")
    assert behaviour.ballot_a(context, Proposal(7), 5) == -35


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("none", set()),
        ("gaussian", {"update"}),
        ("label_flip", {"data"}),
        ("model_replacement", {"data", "update"}),
        ("sign_flip", {"update", "ballot_a", "ballot_b"}),
        ("none+sign_flip", {"ballot_a", "ballot_b"}),
        ("sign_flip+none", {"update"}),
        ("nan", {"update"}),
        ("wrong_dtype+withheld_reveal", {"payload", "messages"}),
        ("lazy_vote+none", set()),
    ],
)
def test_what_a_name_changes_follows_from_it(name: str, changed: set[str]) -> None:
    assert changed_by(name) == changed


@pytest.mark.parametrize("name", sorted(set(BEHAVIOURS) - {"none", "sybil"}))
def test_every_behaviour_changes_something(name: str) -> None:
    assert changed_by(name) <= {*AS_PROPOSER, *AS_VOTER} and changed_by(name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bribe", "adversary.attack is 'bribe'; it must be one of alie, "),
        ("gaussian+bribe", "adversary.attack is 'bribe'"),
        ("gaussian@", "what follows @ is the behaviour's strength, a number"),
        ("gaussian@much", "what follows @ is the behaviour's strength"),
        ("gaussian@nan", "what follows @ is the behaviour's strength"),
        ("gaussian@1e7", "a number between -1000000 and 1000000"),
        ("", "adversary.attack is ''"),
    ],
)
def test_what_is_no_behaviour_is_refused(name: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parts(name)
    assert told in str(refused.value)


@pytest.mark.parametrize("name", [name for name, kind in BEHAVIOURS.items() if kind.overrides("update")])
def test_a_repeated_phase_gives_the_same_update_and_leaves_what_is_given(name: str) -> None:
    adapters = moved(vector(200), vector(201))
    history = [{0: vector(20), 1: vector(21)}, {3: vector(33)}]
    given, world = vector(1), Tensors(adapters=adapters, history=history)
    behaviour, context = acting(name, 1, world, epoch=3)
    first = canonical_bytes(behaviour.update(context, given))
    again, other = acting(name, 1, world, epoch=3)
    assert canonical_bytes(again.update(other, given)) == first
    assert canonical_bytes(given) == canonical_bytes(vector(1))
    assert canonical_bytes(world.honest[4]) == canonical_bytes(vector(4)) and torch.equal(
        adapters[0][A], vector(100)[A]
    )
