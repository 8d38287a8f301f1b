from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.message import Kind
from flock_ray.protocol.roles import roles
from flock_ray.protocol.state import Scope, TaskState
from tests.protocol.players import TERMS, message, new_task

SCOPE = Scope(8_453, bytes(range(1, 21)), keccak(b"task"))


@pytest.mark.parametrize("name", [item.name for item in fields(TERMS)])
def test_every_term_is_in_the_digest(name: str) -> None:
    value = getattr(TERMS, name)
    other: Any = keccak(value) if isinstance(value, bytes) else {"p": 1} if isinstance(value, dict) else value * 2
    changed = replace(TERMS, **{name: other})
    assert changed.digest() != TERMS.digest()


def test_a_payload_commitment_binds_everything_it_should() -> None:
    payload, salt = keccak(b"payload"), keccak(b"salt")
    commitments = {
        scope.payload_commitment(epoch, member, hashed, salted)
        for scope, epoch, member, hashed, salted in [
            (SCOPE, 1, 2, payload, salt),
            (replace(SCOPE, chain_id=1), 1, 2, payload, salt),
            (replace(SCOPE, contract=bytes(20)), 1, 2, payload, salt),
            (replace(SCOPE, task=keccak(b"other")), 1, 2, payload, salt),
            (SCOPE, 2, 2, payload, salt),
            (SCOPE, 1, 1, payload, salt),
            (SCOPE, 1, 2, salt, salt),
            (SCOPE, 1, 2, payload, payload),
        ]
    }
    assert len(commitments) == 8


def test_slots_stand_in_registration_order() -> None:
    start = new_task(3)
    first, second, third = start.members
    members = (replace(first, slots=2), second, replace(third, slots=3))
    state = TaskState.first(start.terms, start.scope, members, start.seed)
    assert state.slot_owners == (0, 0, 1, 2, 2, 2)


def test_a_slash_lowers_stake_and_leaves_the_slots() -> None:
    state = new_task(8)
    poor = replace(state, members=tuple(replace(member, stake=0) for member in state.members))
    assert poor.roles == state.roles


def test_the_roles_are_those_of_seed_task_and_epoch() -> None:
    state = new_task(8)
    assert state.roles == roles(state.seed, state.scope.task, 1, range(8), 4, 4)


def test_epochs_are_counted_down() -> None:
    state = new_task(num_epochs=3)
    assert [replace(state, epoch=epoch).epochs_left for epoch in (1, 2, 3)] == [3, 2, 1]
    assert [replace(state, epoch=epoch).finished for epoch in (1, 3, 4)] == [False, False, True]


def test_a_message_concerns_its_task_and_epoch_and_names_a_member() -> None:
    state = new_task(8)
    sent = message(state, Kind.COMMITMENT, 7, {"commitment": to_hex(bytes(32))})
    assert state.concerns(sent)
    for other in (replace(sent, member=8), replace(sent, epoch=2), replace(sent, task=keccak(sent.task))):
        assert not state.concerns(other)
