from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.inbox import Inbox
from flock_ray.protocol.message import Kind, Message

TASK = keccak(b"task")


def commitment(member: int, content: int, kind: Kind = Kind.COMMITMENT) -> Message:
    return Message(kind, TASK, 1, member, {"commitment": to_hex(keccak(bytes([content])))})


KINDS = st.sampled_from([Kind.COMMITMENT, Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_B_COMMITMENT])
MESSAGES = st.lists(st.builds(commitment, st.integers(0, 4), st.integers(0, 3), KINDS), max_size=25)


@given(MESSAGES, st.randoms(use_true_random=False), st.integers(0, 3))
def test_arrival_order_and_duplicates_change_nothing(messages: list[Message], random: Random, copies: int) -> None:
    shuffled = messages + messages[:copies] * copies
    random.shuffle(shuffled)
    inbox, other = Inbox(messages), Inbox(shuffled)
    assert inbox.messages == other.messages
    assert inbox.equivocators == other.equivocators


@given(MESSAGES)
def test_a_member_says_one_thing_of_a_kind_or_equivocates(messages: list[Message]) -> None:
    inbox = Inbox(messages)
    equivocators = set()
    for kind in Kind:
        for member in range(5):
            sent = {message.data: message for message in messages if (message.kind, message.member) == (kind, member)}
            kept = [message for message in inbox.messages if (message.kind, message.member) == (kind, member)]
            if len(sent) == 1:
                assert inbox.single(kind, member) == kept[0] == next(iter(sent.values()))
            else:
                assert inbox.single(kind, member) is None
                assert len(kept) == min(2, len(sent)) == len({message.data for message in kept})
            if len(sent) > 1:
                equivocators.add(member)
    assert inbox.equivocators == tuple(sorted(equivocators))
    assert list(inbox.messages) == sorted(inbox.messages, key=lambda message: message.sort_key)


def test_the_same_bytes_twice_are_no_equivocation() -> None:
    inbox = Inbox([commitment(1, 1), commitment(1, 1), commitment(2, 1)])
    assert inbox.equivocators == ()
    assert len(inbox.messages) == 2


def test_an_equivocator_in_one_kind_still_counts_in_another() -> None:
    inbox = Inbox([commitment(1, 1), commitment(1, 2), commitment(1, 3, Kind.BALLOT_A_COMMITMENT)])
    assert inbox.equivocators == (1,)
    assert inbox.single(Kind.COMMITMENT, 1) is None
    assert inbox.single(Kind.BALLOT_A_COMMITMENT, 1) == commitment(1, 3, Kind.BALLOT_A_COMMITMENT)


def test_a_thousand_contradictions_take_two_places() -> None:
    flood = [commitment(1, 0, Kind.ACKNOWLEDGEMENT)] + [
        Message(Kind.COMMITMENT, TASK, 1, 1, {"commitment": to_hex(keccak(b"%d" % i))}) for i in range(1_000)
    ]
    assert len(Inbox(flood).messages) == 3
    assert Inbox([]).messages == ()
