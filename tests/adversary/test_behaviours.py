from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flock_ray.adversary.behaviour import Behaviour, Candidate, Context, Proposal
from flock_ray.adversary.registry import get_behaviour
from flock_ray.errors import ConfigError
from flock_ray.lora.serialization import Adapter, canonical_bytes, flat
from flock_ray.protocol.message import Kind, Message
from flock_ray.wire_format.dense import Dense
from flock_ray.wire_format.wire_format import MalformedPayload
from tests.protocol.players import new_task

SHAPES = {"x.lora_A.weight": (2, 5), "x.lora_B.weight": (3, 2)}
A, B = SHAPES
dense = Dense({"max_abs": 64})
STATE = new_task()
NUMBERS = {silo: silo for silo in range(8)}


def update(shapes: dict[str, tuple[int, int]] = SHAPES) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def behave(name: str, scale: float = 3.0) -> tuple[Behaviour, Context]:
    """A behaviour of members 3 and 5, and what member 3 knows."""
    behaviour = get_behaviour(name)(scale, {3, 5}, b"\1" * 32)
    return behaviour, behaviour.context(STATE, 3, NUMBERS)


def payload(name: str, given: Adapter, context: Context | None = None) -> bytes:
    behaviour, own = behave(name)
    context = context or own
    return behaviour.payload(context, behaviour.update(context, given), dense.encode)


def delivered(name: str) -> Adapter:
    """What a checking receiver reads from the member's payload."""
    return dense.decode(payload(name, update()), SHAPES)


def test_none_is_honest() -> None:
    honest, context = behave("none")
    message = Message(Kind.COMMITMENT, STATE.scope.task, 1, 3, {"commitment": "0x00"})
    assert canonical_bytes(delivered("none")) == canonical_bytes(update())
    assert honest.ballot_a(context, Proposal(5), -7) == honest.ballot_b(context, Candidate(), -7) == -7
    assert tuple(honest.messages(context, message)) == (message,)


@pytest.mark.parametrize(("scale", "gain", "vote"), [(3.0, 1000, -3000), (3.0, -5, 15), (0.5, 5, -2), (2.0, 0, 0)])
def test_sign_flip_reverses_and_scales_votes(scale: float, gain: int, vote: int) -> None:
    behaviour, context = behave("sign_flip", scale)
    flipped = behaviour.ballot_a(context, Proposal(6), gain), behaviour.ballot_b(context, Candidate(), gain)
    assert flipped == (vote, vote) and all(isinstance(one, int) for one in flipped)


def test_sign_flip_reverses_and_scales_updates_in_a_legal_payload() -> None:
    honest, sent = update(), delivered("sign_flip")
    assert torch.equal(sent[B], -3.0 * honest[B]) and torch.equal(sent[A], honest[A])
    start = torch.randn(SHAPES[A], generator=torch.Generator().manual_seed(1))  # B starts at 0
    assert torch.allclose(sent[B] @ (start + sent[A]), -3.0 * honest[B] @ (start + honest[A]))


@pytest.mark.parametrize("name", ["nan", "wrong_shape", "wrong_dtype"])
def test_malformed_updates_are_refused(name: str) -> None:
    with pytest.raises(MalformedPayload):
        delivered(name)


def test_nan_is_a_single_entry() -> None:
    behaviour, context = behave("nan")
    assert sum(int(factor.isnan().sum()) for factor in behaviour.update(context, update()).values()) == 1


def test_wrong_dtype_is_as_long_as_an_honest_payload() -> None:
    assert len(payload("wrong_dtype", update())) == dense.max_bytes(SHAPES)


def test_accomplices_send_almost_the_same_noise_and_no_copy() -> None:
    wide = {A: (8, 200), B: (300, 8)}
    behaviour, context = behave("collude")
    own, other = (behaviour.update(replace(context, member=member), update(wide)) for member in (3, 5))
    later = behaviour.update(behaviour.context(replace(STATE, epoch=2), 3, NUMBERS), update(wide))
    assert canonical_bytes(own) != canonical_bytes(other)

    def cosine(left: Adapter, right: Adapter) -> float:
        return float(torch.nn.functional.cosine_similarity(flat(left), flat(right), dim=0))

    assert cosine(own, other) > 0.95 and abs(cosine(own, update(wide))) < 0.1 > abs(cosine(own, later))
    for key, factor in update(wide).items():
        assert torch.allclose(own[key].norm(), factor.norm(), rtol=1e-4)


def test_accomplices_vote_for_one_another_and_truly_for_others() -> None:
    behaviour, context = behave("collude")
    assert [behaviour.ballot_a(context, Proposal(proposer), -40) for proposer in (3, 4, 5)] == [120, -40, 120]
    assert behaviour.ballot_b(context, Candidate(), -40) == -40


def test_a_coalition_shares_randomness_that_no_other_has() -> None:
    ours, theirs = get_behaviour("collude")(1.0, {3}, b"\1" * 32), get_behaviour("collude")(1.0, {3}, b"\2" * 32)
    seen = [
        one.context(state, 3, NUMBERS).randomness
        for one in (ours, theirs)
        for state in (STATE, replace(STATE, epoch=2))
    ]
    assert len(set(seen)) == 4 and ours.context(STATE, 5, NUMBERS).randomness == seen[0]


@pytest.mark.parametrize("name", ["none", "sign_flip", "collude", "nan", "wrong_shape", "wrong_dtype"])
def test_a_repeated_phase_gives_the_same_bytes_and_leaves_the_honest_update_as_it_is(name: str) -> None:
    given = update()
    assert payload(name, given) == payload(name, given)
    assert canonical_bytes(given) == canonical_bytes(update())


def test_an_unknown_behaviour_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"adversary.attack is 'bribe'.*none.*sign_flip"):
        get_behaviour("bribe")
