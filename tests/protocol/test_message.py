from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.protocol.encoding import canonical_json, to_hex
from flock_ray.protocol.hashing import keccak, sha256
from flock_ray.protocol.inbox import parse_message
from flock_ray.protocol.message import (
    MAX_BYTES,
    Kind,
    Manifest,
    Message,
    is_count,
    read_acknowledgement,
    read_commitment,
    read_manifest,
)
from tests.protocol.players import Play, new_task

TASK = keccak(b"task")
STATE = new_task()
MESSAGES = Play().messages(STATE)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=70) | st.just(to_hex(TASK)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


def bytes_with(**values: Any) -> bytes:
    whole = json.loads(MESSAGES[0].data)
    return canonical_json({**whole, **values})


def message(kind: Kind, **body: Any) -> Message:
    return Message(kind, TASK, 1, 2, body)


def test_an_epoch_has_messages_of_every_kind_and_they_come_back_from_their_bytes() -> None:
    assert {sent.kind for sent in MESSAGES} == set(Kind)
    for sent in MESSAGES:
        parsed = parse_message(sent.data)
        assert parsed == sent
        assert parsed.data == sent.data
        assert parsed.digest == sha256(sent.data)


@given(st.sampled_from(Kind), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_message_is_its_bytes(kind: Kind, epoch: int, member: int) -> None:
    sent = Message(kind, TASK, epoch, member, {"a": [1, None, "x"]})
    assert Message.parse(sent.data) == sent
    for other in (replace(sent, epoch=epoch ^ 1), replace(sent, member=member ^ 1), replace(sent, task=keccak(TASK))):
        assert other.digest != sent.digest


@pytest.mark.parametrize(
    "values",
    [
        {"schema": "flock_ray/message/2"},
        {"schema": None},
        {"kind": "commit"},
        {"kind": ["commitment"]},
        {"kind": {"commitment": 1}},
        {"kind": None},
        {"task": to_hex(TASK)[:-2]},
        {"task": 5},
        {"epoch": -1},
        {"epoch": 2**63},
        {"epoch": True},
        {"epoch": "1"},
        {"epoch": None},
        {"member": -1},
        {"member": False},
        {"member": [0]},
        {"body": []},
        {"body": None},
        {"body": {}},
        {"body": {"commitment": to_hex(TASK), "more": 1}},
        {"body": {"commitment": "0x"}},
        {"body": {"commitment": None}},
        {"more": 1},
    ],
)
def test_a_field_of_another_form_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        parse_message(bytes_with(**values))


@pytest.mark.parametrize("value", [None, 1, "message", [], {}, {"schema": "flock_ray/message/3"}])
def test_json_that_is_no_message_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        parse_message(canonical_json(value))


def test_a_message_has_a_largest_size() -> None:
    with pytest.raises(ValueError, match="are more than the"):
        parse_message(bytes_with(body={"commitment": "x" * MAX_BYTES}))


@given(st.binary(max_size=200))
def test_hostile_bytes_only_ever_raise_value_errors(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_message(data)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_changed_byte_is_refused_or_another_message(sent: Message, draw: st.DataObject) -> None:
    data = bytearray(sent.data)
    data[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    try:
        parsed = parse_message(bytes(data))
    except ValueError:
        return
    assert parsed.data == bytes(data)
    assert parsed.digest != sent.digest


@settings(max_examples=150)
@given(st.sampled_from(Kind), JSON)
def test_any_body_is_read_or_refused(kind: Kind, body: Any) -> None:
    data = bytes_with(kind=str(kind), body=body)
    try:
        parsed = parse_message(data)
    except ValueError:
        return
    assert parsed.data == data


def test_kinds_are_sorted_as_an_epoch_runs_then_by_member() -> None:
    ordered = sorted(MESSAGES, key=lambda sent: sent.sort_key)
    assert [sent.kind for sent in ordered] == sorted((sent.kind for sent in ordered), key=list(Kind).index)
    for kind in Kind:
        members = [sent.member for sent in ordered if sent.kind is kind]
        assert members == sorted(members)


@pytest.mark.parametrize("value", [-1, 2**63, True, False, 1.0, "1", None])
def test_what_is_no_count(value: object) -> None:
    assert not is_count(value)
    assert is_count(0) and is_count(2**63 - 1)


def test_a_commitment_is_a_hash() -> None:
    assert read_commitment(message(Kind.COMMITMENT, commitment=to_hex(TASK))) == TASK
    with pytest.raises(ValueError, match=r"^commitment: Object contains unknown field `commit`$"):
        read_commitment(message(Kind.COMMITMENT, commit=to_hex(TASK)))


def test_listed_commitments_ascend_and_are_distinct() -> None:
    low, high = sorted((keccak(b"a"), keccak(b"b")))

    def listed(*digests: bytes) -> Message:
        return message(Kind.ACKNOWLEDGEMENT, commitments=[to_hex(digest) for digest in digests])

    assert read_acknowledgement(listed()) == ()
    assert read_acknowledgement(listed(low, high)) == (low, high)
    for wrong in (listed(high, low), listed(low, low), message(Kind.ACKNOWLEDGEMENT, commitments=None)):
        with pytest.raises(ValueError):
            read_acknowledgement(wrong)


def test_a_manifest_comes_back_and_steps_are_a_count() -> None:
    manifest = Manifest(*(keccak(bytes([i])) for i in range(4)), 15, keccak(b"payload"), keccak(b"salt"))
    assert read_manifest(message(Kind.MANIFEST, **manifest.body())) == manifest
    for steps in (-1, True, "15", None):
        with pytest.raises(ValueError, match=r"^manifest: Expected `int`.*at `\$\.steps`"):
            read_manifest(message(Kind.MANIFEST, **{**manifest.body(), "steps": steps}))
