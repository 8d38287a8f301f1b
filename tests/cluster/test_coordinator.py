"""A dishonest committee: whatever byte it changes, no honest voter signs; what it can do is leave messages out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from flock_ray.adversary.registry import get_behaviour
from flock_ray.cluster.attestation import Attestation, Bulletin, report_of
from flock_ray.cluster.coordinator import Coordinator
from flock_ray.errors import ProtocolError
from flock_ray.protocol.ballot import ballot_commitment, read_ballot_a, read_ballot_b
from flock_ray.protocol.encoding import canonical_json, from_hex, to_hex
from flock_ray.protocol.epoch import derive
from flock_ray.protocol.inbox import Inbox, parse_message
from flock_ray.protocol.message import Kind, Message, SignedMessage
from flock_ray.protocol.record import Record
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.verdict import CandidateVerdict
from tests.cluster.plain_alliance import PHASES, PlainAlliance, Play

pytestmark = pytest.mark.model


@dataclass
class Signing:
    """An epoch in which a proposer is slashed, with all messages sent and nothing signed yet."""

    play: Play
    record: Record
    bulletin: Bulletin

    @property
    def voters(self) -> set[int]:
        return set(self.record.roles.voters)


@pytest.fixture(scope="module")
def played(alliance: PlainAlliance) -> Iterator[Signing]:
    play = alliance.found()
    cheat = alliance.member(play.state.roles.proposers[0])
    honest, cheat.behaviour = cheat.behaviour, get_behaviour("nan")(1.0)
    yield Signing(play, *play.until_signing())
    cheat.behaviour = honest


@pytest.fixture
def signing(played: Signing) -> Signing:
    """The nodes at that point, whatever task they played since."""
    play = played.play
    for node in play.alliance.nodes:
        node.begin(play.task)
    return played


def flipped(digest: bytes) -> bytes:
    return digest[:-1] + bytes([digest[-1] ^ 1])


def first_reward(record: Record, wei: int) -> dict[int, int]:
    member = min(record.rewards)
    return {**record.rewards, member: record.rewards[member] + wei}


def richer(record: Record, wei: int) -> Record:
    """A record that pays one member more, with a leaf to match."""
    member = min(record.rewards)
    members = list(record.members)
    members[member] = replace(members[member], earned=members[member].earned + wei)
    return replace(record, rewards=first_reward(record, wei), members=tuple(members))


def regained(record: Record, gain: int) -> Record:
    """A record that states one gain of one ballot differently."""
    scored = next(one for one in record.proposals if one.consensus)
    assert scored.consensus
    voter = min(scored.consensus.gains)
    gains = {**scored.consensus.gains, voter: scored.consensus.gains[voter] + gain}
    changed = replace(scored, consensus=replace(scored.consensus, gains=gains))
    return replace(record, proposals=tuple(changed if one is scored else one for one in record.proposals))


def first_message(record: Record, kind: Kind) -> Record:
    index = next(i for i, (named, _, _) in enumerate(record.messages) if named == kind)
    named, member, digest = record.messages[index]
    changed = (named, member, flipped(digest))
    return replace(record, messages=(*record.messages[:index], changed, *record.messages[index + 1 :]))


RECORDS: dict[str, Callable[[Record], Record]] = {
    "a reward by one wei": lambda r: replace(r, rewards=first_reward(r, 1)),
    "a reward and its leaf": lambda r: richer(r, 1),
    "a reward taken away": lambda r: replace(r, rewards={m: w for m, w in r.rewards.items() if m != min(r.rewards)}),
    "a slash by one wei": lambda r: replace(r, slashes=(replace(r.slashes[0], amount=r.slashes[0].amount - 1),)),
    "a slash left out": lambda r: replace(r, slashes=()),
    "a slash of another": lambda r: replace(r, slashes=(replace(r.slashes[0], member=min(r.roles.voters)),)),
    "the reason of a slash": lambda r: replace(r, slashes=(replace(r.slashes[0], reason="malformee"),)),
    "a slash carried over": lambda r: replace(r, slashes=(), carried=r.slashes),
    "a stake": lambda r: replace(r, members=(replace(r.members[0], stake=r.members[0].stake - 1), *r.members[1:])),
    "the pool": lambda r: replace(r, pool_left=r.pool_left - 1),
    "a gain of a ballot": lambda r: regained(r, 1),
    "a digest of a ballot A": lambda r: first_message(r, Kind.BALLOT_A),
    "a digest of a ballot B": lambda r: first_message(r, Kind.BALLOT_B),
    "a digest of a manifest": lambda r: first_message(r, Kind.MANIFEST),
    "a message left out": lambda r: replace(r, messages=r.messages[1:]),
    "the adapter": lambda r: replace(r, adapter=flipped(r.adapter)),
    "the candidate": lambda r: replace(r, candidate=CandidateVerdict(flipped(r.adapter), r.candidate.weights, None)),
    "the verdict": lambda r: replace(r, accepted=False),
    "a weight": lambda r: replace(r, candidate=replace(r.candidate, weights=((0, 2), *r.candidate.weights[1:]))),
    "the next seed": lambda r: replace(r, next_seed=flipped(r.next_seed)),
    "a reveal": lambda r: replace(r, reveals={**r.reveals, min(r.reveals): flipped(r.reveals[min(r.reveals)])}),
    "the roles": lambda r: replace(r, roles=Roles(r.roles.voters[::-1], r.roles.proposers)),
    "the previous report": lambda r: replace(r, previous_report=flipped(r.previous_report)),
    "the task": lambda r: replace(r, task=flipped(r.task)),
    "the epoch": lambda r: replace(r, epoch=2),
}


@pytest.mark.parametrize("changed", RECORDS)
def test_a_record_changed_in_one_place_gets_no_signature(signing: Signing, changed: str) -> None:
    play, record = signing.play, RECORDS[changed](signing.record)
    assert record.data != signing.record.data
    assert play.signatures(record, signing.bulletin) == {}
    assert play.refusals() == dict.fromkeys(signing.voters, "the proposed record is not what the signed messages give")


@pytest.mark.parametrize("changed", RECORDS)
def test_signatures_of_the_true_record_carry_no_other(signing: Signing, changed: str) -> None:
    play, record = signing.play, RECORDS[changed](signing.record)
    signatures = play.signatures(signing.record, signing.bulletin)
    assert set(signatures) == signing.voters
    with pytest.raises(ProtocolError, match="0 of 4 voters signed the report, 3 seats are needed"):
        play.coordinator.attest(record, signatures)
    report = report_of(record, play.domain, play.relayer)
    for node in play.alliance.nodes:
        with pytest.raises(ProtocolError, match="not what the signed messages give"):
            node.advance(Attestation(record.data, report, signatures), signing.bulletin)


def body_of(signed: SignedMessage) -> dict[str, Any]:
    return dict(json.loads(signed.data)["body"])


def rewritten(signed: SignedMessage, body: dict[str, Any]) -> SignedMessage:
    """The message with another body under its old signature."""
    return SignedMessage(canonical_json(json.loads(signed.data) | {"body": body}), signed.signature)


def last_digit(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def with_digit(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, key: last_digit(body[key])}


def with_score_a(body: dict[str, Any]) -> dict[str, Any]:
    next(entry for entry in body["ballot"]["entries"] if entry[3])[3][0][0] += 1
    return body


def with_score_b(body: dict[str, Any]) -> dict[str, Any]:
    body["ballot"]["candidates"][0][1][0] += 1
    return body


def with_other_commitment(body: dict[str, Any]) -> dict[str, Any]:
    return {"commitments": sorted([*body["commitments"][:-1], last_digit(body["commitments"][-1])])}


MESSAGES: dict[Kind, Callable[[dict[str, Any]], dict[str, Any]]] = {
    Kind.COMMITMENT: with_digit("commitment"),
    Kind.ACKNOWLEDGEMENT: with_other_commitment,
    Kind.MANIFEST: with_digit("samples"),
    Kind.BALLOT_A_COMMITMENT: with_digit("commitment"),
    Kind.BALLOT_A: with_score_a,
    Kind.BALLOT_B_COMMITMENT: with_digit("commitment"),
    Kind.BALLOT_B: with_score_b,
}


def change(bulletin: Bulletin, kind: Kind, member: int, body: Callable[[dict[str, Any]], dict[str, Any]]) -> Bulletin:
    """The bulletin with one byte or so of one message changed."""
    changed = tuple(
        rewritten(signed, body(body_of(signed))) if sent_by(signed) == (kind, member) else signed for signed in bulletin
    )
    assert sum(a != b for a, b in zip(bulletin, changed, strict=True)) == 1
    return changed


def believed(play: Play, bulletin: Bulletin) -> Record:
    """The record of a committee that counts every message, whoever signed it."""
    return derive(play.state, Inbox(parse_message(signed.data) for signed in bulletin))


def sender(signing: Signing, kind: Kind) -> int:
    roles = signing.record.roles
    return roles.proposers[-1] if kind in (Kind.COMMITMENT, Kind.MANIFEST) else roles.voters[0]


@pytest.mark.parametrize("kind", Kind)
def test_a_changed_message_is_not_collected(signing: Signing, kind: Kind) -> None:
    changed = change(signing.bulletin, kind, sender(signing, kind), MESSAGES[kind])
    honest = Coordinator()
    honest.begin(signing.play.task)
    (told,) = [reason for due in PHASES.values() for reason in honest.collect(of_kind(changed, due), due)]
    assert told == f"member {sender(signing, kind)} did not sign this {kind}"


def of_kind(bulletin: Bulletin, kind: Kind) -> list[SignedMessage]:
    return [signed for signed in bulletin if sent_by(signed)[0] is kind]


@pytest.mark.parametrize("proposed", ["the record it would give", "the true record"])
@pytest.mark.parametrize("kind", Kind)
def test_one_changed_message_of_the_bulletin_gets_no_signature(signing: Signing, kind: Kind, proposed: str) -> None:
    changed = change(signing.bulletin, kind, sender(signing, kind), MESSAGES[kind])
    record = signing.record if proposed == "the true record" else believed(signing.play, changed)
    assert signing.play.signatures(record, changed) == {}
    refusals = signing.play.refusals()
    assert set(refusals) == signing.voters
    if (voter := sender(signing, kind)) in signing.voters:
        assert refusals[voter] == f"the messages lack this voter's own {kind}"


@pytest.mark.parametrize("kind", [Kind.BALLOT_A, Kind.BALLOT_B])
def test_a_changed_ballot_with_a_commitment_made_to_match_gets_no_signature(signing: Signing, kind: Kind) -> None:
    """With salt and ballot known after the reveal, a committee can compute what the voter would have committed to."""
    play, voter = signing.play, signing.record.roles.voters[0]
    committed = {Kind.BALLOT_A: Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_B: Kind.BALLOT_B_COMMITMENT}[kind]
    changed = change(signing.bulletin, kind, voter, MESSAGES[kind])
    read = {Kind.BALLOT_A: read_ballot_a, Kind.BALLOT_B: read_ballot_b}[kind]
    ballot, salt = next(read(parse_message(signed.data)) for signed in changed if sent_by(signed) == (kind, voter))
    fitting = ballot_commitment(play.state.scope.task, play.state.epoch, voter, kind, ballot, salt)
    changed = change(changed, committed, voter, lambda body: {"commitment": to_hex(fitting)})
    record = believed(play, changed)
    counted = {kind: digest for kind, member, digest in record.messages if member == voter}
    assert counted != {kind: digest for kind, member, digest in signing.record.messages if member == voter}
    assert record.proposals != signing.record.proposals or record.candidate != signing.record.candidate
    assert play.signatures(record, changed) == {}


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.COMMITMENT, Kind.MANIFEST)])
def test_a_voter_whose_own_message_is_left_out_does_not_sign(alliance: PlainAlliance, kind: Kind) -> None:
    """The others do: leaving out is what a committee can do, and a quorum of the rest decides."""
    play = alliance.found()
    _, bulletin = play.until_signing()
    voters = set(play.state.roles.voters)
    voter = min(voters)
    rest = without(bulletin, kind, voter)
    assert set(play.signatures(believed(play, rest), rest)) == voters - {voter}
    assert play.refusals() == {voter: f"the messages lack this voter's own {kind}"}


def without(bulletin: Bulletin, kind: Kind, member: int) -> Bulletin:
    left = [signed for signed in bulletin if sent_by(signed) != (kind, member)]
    assert len(left) == len(bulletin) - 1
    return tuple(left)


def sent_by(signed: SignedMessage) -> tuple[Kind, int]:
    message = Message.parse(signed.data)
    return message.kind, message.member


def test_two_sets_of_messages_get_one_report_signed(alliance: PlainAlliance) -> None:
    """A committee cannot have one epoch signed twice: the journals hold the first report, restart or not."""
    play = alliance.found()
    record, bulletin = play.until_signing()
    proposer, voters = play.state.roles.proposers[0], set(play.state.roles.voters)
    assert set(play.signatures(record, bulletin)) == voters
    rest = without(bulletin, Kind.MANIFEST, proposer)
    assert play.signatures(believed(play, rest), rest) == {}
    refusals = play.refusals()
    assert set(refusals) == voters
    assert all("refusing to sign a second report of epoch 1" in why for why in refusals.values())
    assert set(play.signatures(record, bulletin)) == voters


def test_a_quorum_of_other_keys_attests_nothing(signing: Signing) -> None:
    play = signing.play
    true = play.signatures(signing.record, signing.bulletin)
    assert set(true) == signing.voters
    observers = [number for number in range(len(play.state.members)) if number not in signing.voters]
    for signatures in (
        {voter: true[other] for voter, other in zip(sorted(true), sorted(true)[1:] + sorted(true)[:1], strict=True)},
        {observer: signature for observer, signature in zip(observers, true.values(), strict=False)},
        {voter: signature[:-1] for voter, signature in true.items()},
        {voter: signature for voter, signature in sorted(true.items())[:2]},
        {},
    ):
        with pytest.raises(ProtocolError, match="seats are needed"):
            play.coordinator.attest(signing.record, signatures)


def test_three_of_four_seats_are_enough(alliance: PlainAlliance) -> None:
    play = alliance.found()
    record, bulletin = play.until_signing()
    signatures = play.signatures(record, bulletin)
    absent = record.roles.voters[2]
    del signatures[absent]
    attestation, following = play.coordinator.attest(record, signatures)
    assert set(attestation.signatures) == set(record.roles.voters) - {absent}
    assert attestation.seats(record.roles.voters) == 0b1011
    assert len(attestation.packed(record.roles.voters)) == 3 * 64
    assert following.epoch == 2
    for node in alliance.nodes:
        node.advance(attestation, bulletin)


def test_the_report_says_what_the_record_says(signing: Signing) -> None:
    report = report_of(signing.record, signing.play.domain, signing.play.relayer)
    record = signing.record
    assert report.record_hash == record.digest and report.model_hash == record.adapter
    assert report.rewards_total == sum(record.rewards.values()) == sum(wei for _, wei in record.leaves)
    assert [(slash.member, slash.amount) for slash in report.slashes] == [
        (slash.member, slash.amount) for slash in record.slashes
    ]
    assert from_hex(to_hex(report.seed)) == signing.play.state.seed
