from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from flock_ray.protocol.encoding import canonical_json, to_hex
from flock_ray.protocol.hashing import keccak, sha256
from flock_ray.protocol.record import Record
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import Slash
from flock_ray.protocol.verdict import CandidateVerdict, ProposalVerdict
from tests.protocol.players import Play, account, new_task

STATE = new_task(12)
PLAY = Play(gain=lambda voter, proposer: -90_000 if proposer == STATE.roles.proposers[0] else 50_000)
RECORD = PLAY.record(STATE)


def test_the_bytes_are_canonical_and_the_digest_is_theirs() -> None:
    assert canonical_json(json.loads(RECORD.data)) == RECORD.data
    assert RECORD.digest == sha256(RECORD.data)


CHANGES: dict[str, Any] = {
    "task": keccak(b"other"),
    "epoch": 2,
    "seed": keccak(b"other"),
    "next_seed": keccak(b"other"),
    "previous_report": keccak(b"other"),
    "previous_record": keccak(b"other"),
    "changes": (Change(8, 1, 1, leaves=False),),
    "joined": (STATE.members[0],),
    "roles": Roles(RECORD.roles.voters[::-1], RECORD.roles.proposers),
    "messages": RECORD.messages[1:],
    "reveals": {},
    "reveals_digest": keccak(b"other"),
    "proposals": (ProposalVerdict(1, "missing"),),
    "candidate": CandidateVerdict(None, (), None),
    "accepted": False,
    "adapter": keccak(b"other"),
    "rewards": {},
    "slashes": (),
    "carried": (Slash(1, 2, "copied"),),
    "members": tuple(replace(member, stake=1) for member in RECORD.members),
    "changed": RECORD.changed[1:],
    "pool_left": 1,
    "escrow": 1,
    "voiceless": (1,),
    "fees": ((1, 2, 3),),
    "withheld": 1,
    "removed": (Change(1, 1, 4, leaves=True),),
}


@pytest.mark.parametrize("name", [item.name for item in fields(RECORD)])
def test_every_field_is_in_the_bytes(name: str) -> None:
    changed: Record = replace(RECORD, **{name: CHANGES[name]})
    assert changed.digest != RECORD.digest


def test_one_wei_of_a_reward_a_slash_or_a_stake_changes_the_digest() -> None:
    member = min(RECORD.rewards)
    (slash,) = RECORD.slashes
    place = RECORD.changed[0]
    target = RECORD.members[place]
    for values in (
        {"rewards": {**RECORD.rewards, member: RECORD.rewards[member] + 1}},
        {"slashes": (replace(slash, amount=slash.amount - 1),)},
        {"members": (*RECORD.members[:place], replace(target, stake=target.stake - 1), *RECORD.members[place + 1 :])},
        {"members": (*RECORD.members[:place], replace(target, earned=target.earned + 1), *RECORD.members[place + 1 :])},
    ):
        assert replace(RECORD, **values).digest != RECORD.digest


def test_the_leaves_are_what_everybody_earned_so_far() -> None:
    earners = {account(member): wei for member, wei in RECORD.rewards.items() if wei}
    assert dict(RECORD.leaves) == earners
    assert len(RECORD.leaves) == len(earners)
    assert RECORD.rewards_total == sum(earners.values())
    assert account(RECORD.slashes[0].member) not in earners


def test_a_reader_finds_roles_messages_verdict_and_money() -> None:
    value = json.loads(RECORD.data)
    assert value["voters"] == list(RECORD.roles.voters)
    assert value["proposers"] == list(RECORD.roles.proposers)
    assert [digest for _, _, digest in value["messages"]] == [to_hex(digest) for _, _, digest in RECORD.messages]
    assert {entry["member"]: entry["status"] for entry in value["proposals"]} == {
        proposal.member: proposal.status for proposal in RECORD.proposals
    }
    assert value["slashes"] == [
        {"member": STATE.roles.proposers[0], "amount": RECORD.slashes[0].amount, "reason": "harmful"}
    ]
    assert value["members"] == [[number, *RECORD.members[number].row] for number in RECORD.changed]
    touched = {slash.member for slash in RECORD.slashes} | {one for one, wei in RECORD.rewards.items() if wei}
    assert set(RECORD.changed) == touched < set(range(len(RECORD.members)))
    assert value["candidate"]["adapter"] == value["adapter"]
