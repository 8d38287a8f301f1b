"""Whoever claims something else of a contest's day than its signed messages bear out is told what does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from flock_ray.chain.eip712 import Domain, message_digest
from flock_ray.chain.keys import Signer
from flock_ray.errors import VerificationError
from flock_ray.protocol.contest import derive_day
from flock_ray.protocol.contest_message import ContestKind, ContestMessage
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.encoding import canonical_json, parse_canonical, to_hex
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.message import SignedMessage
from flock_ray.verify.contest import check_day
from flock_ray.verify.report import SigningDomain
from tests.protocol.contest_players import ContestPlay, graded, new_contest, payload_of

ADDRESS = "0x" + bytes(range(20)).hex()
DOMAIN = Domain(31_337, ADDRESS, ADDRESS)
SIGNING = SigningDomain(31_337, bytes(range(20)), bytes(range(20)))


def signer(member: int) -> Signer:
    return Signer.derive(keccak(b"signer %d" % member))


@cache
def contest() -> ContestState:
    """A contest of one day, so that everything is in its record; members have keys."""
    state = new_contest(days=1)
    members = tuple(replace(one, account=signer(number).address) for number, one in enumerate(state.members))
    return replace(state, members=members)


def sign(message: ContestMessage, member: int | None = None, seed: bytes | None = None) -> SignedMessage:
    by = message.member if member is None else member
    digest = message_digest(
        DOMAIN, message.task, message.epoch, seed or contest().seed, str(message.kind), message.digest
    )
    return SignedMessage(message.data, signer(by).sign_digest(digest))


@cache
def day() -> tuple[tuple[SignedMessage, ...], bytes]:
    """Messages of a day with a liar, an absent one, a copy and an elimination, and its record."""
    state = contest()
    absent = 6
    copy, original = payload_of(1, 10), payload_of(1, 9)
    play = ContestPlay(
        quality=graded(state),
        measures=lambda v, p, r, i, loss: loss + 10**7 if v == 2 else loss,
        rescores=range(7),
        silent=[(kind, absent) for kind in ContestKind if kind.endswith("ballot")],
        copy_of=lambda payload: original if payload == copy else copy if payload == original else None,
        payloads={20: payload_of(1, 11)},
    )
    messages = play.messages(state)
    return tuple(map(sign, messages)), derive_day(state, messages).data


def check(claimed: bytes, signed: tuple[SignedMessage, ...] | None = None) -> None:
    check_day(contest(), day()[0] if signed is None else signed, SIGNING, claimed)


def test_an_honest_record_holds() -> None:
    check(day()[1])
    record = parse_canonical(day()[1], 1 << 24)
    assert record["slashes"] and any(rung["eliminated"] for rung in record["rungs"])
    assert any(one["unpaid"] for one in record["submissions"]) and record["final_ranking"]
    assert any(rung["failed"] for rung in record["rungs"])


def changed(value: Any) -> Any:
    """A value that looks like another of its kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return to_hex(keccak(value.encode())) if value.startswith("0x") else value + "x"
    return 1 if value is None else None


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of the first element of each list, and of every scalar on the way."""
    if isinstance(value, dict):
        return [one for key in sorted(value) for one in leaves(value[key], (*path, key))]
    if isinstance(value, list) and value:
        return leaves(value[0], (*path, 0)) + ([(*path, len(value) - 1)] if len(value) > 1 else [])
    return [path]


def test_every_field_of_a_record_is_checked_and_named() -> None:
    honest = parse_canonical(day()[1], 1 << 24)
    paths = leaves(honest)
    assert len(paths) > 60
    for path in paths:
        record = parse_canonical(day()[1], 1 << 24)
        at = record
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = changed(at[path[-1]])
        with pytest.raises(VerificationError) as caught:
            check(canonical_json(record))
        assert str(caught.value).startswith(f"day 1: record.{path[0]}"), path


@pytest.mark.parametrize(
    "forge",
    [
        lambda record: record.pop("held"),
        lambda record: record.update(extra=1),
        lambda record: record["ranking"].reverse(),
        lambda record: record["submissions"].pop(),
        lambda record: record["rungs"].pop(),
        lambda record: record["slashes"].clear(),
        lambda record: record["rewards"].append([8, 10**18]),
    ],
)
def test_what_is_left_out_added_or_moved_is_found(forge: Callable[[dict[str, Any]], object]) -> None:
    record = parse_canonical(day()[1], 1 << 24)
    forge(record)
    with pytest.raises(VerificationError, match="day 1"):
        check(canonical_json(record))


def test_bytes_that_are_no_record() -> None:
    for claimed in (b"", b"[]", b"{ }", day()[1] + b" "):
        with pytest.raises(VerificationError, match="day 1"):
            check(claimed)


@pytest.mark.parametrize("kind", sorted({str(ContestMessage.parse(one.data).kind) for one in day()[0]}))
def test_a_record_does_not_hold_without_any_one_of_its_messages(kind: str) -> None:
    signed = list(day()[0])
    place = next(i for i, one in enumerate(signed) if ContestMessage.parse(one.data).kind == kind)
    del signed[place]
    with pytest.raises(VerificationError, match=r"day 1: record\."):
        check(day()[1], tuple(signed))


def test_messages_are_their_members_own_of_this_day_and_contest() -> None:
    first, *others = day()[0]
    message = ContestMessage.parse(first.data)
    forged = {
        "did not sign": sign(message, member=message.member + 1),
        "did not sign this": sign(message, seed=keccak(b"another seed")),
        "of day 2": sign(replace(message, epoch=2)),
        "of contest": sign(replace(message, task=keccak(b"another"))),
        "whom the contest does not have": sign(replace(message, member=99), member=0),
        "no message": SignedMessage(b"{}", first.signature),
        "no message of": SignedMessage(first.data + b" ", first.signature),
    }
    for said, one in forged.items():
        with pytest.raises(VerificationError, match=said):
            check(day()[1], (one, *others))
