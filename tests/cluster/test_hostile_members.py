"""What a dishonest member, or whoever writes in its name, can send: what is refused, who is slashed, and who is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from flock_ray.adversary.behaviour import Behaviour, Candidate, Context, Proposal, Row
from flock_ray.adversary.registry import BEHAVIOURS, get_behaviour
from flock_ray.config import AdversaryConfig
from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.protocol.encoding import from_hex, to_hex
from flock_ray.protocol.epoch import skip
from flock_ray.protocol.message import Kind, Message, SignedMessage
from flock_ray.protocol.record import Record
from flock_ray.store.blob_store import BlobStore
from tests.cluster.plain_alliance import Intercept, PlainAlliance, Play, tiny_config

pytestmark = pytest.mark.model

Change = Callable[[list[SignedMessage]], list[SignedMessage]]


def during(phase: str, change: Change) -> Intercept:
    """Change the messages of one phase on their way."""
    return lambda now, messages: change(messages) if now == phase else messages


def statuses(record: Record) -> dict[int, str]:
    return {proposal.member: proposal.status for proposal in record.proposals}


def slashed(record: Record) -> dict[int, str]:
    return {slash.member: slash.reason for slash in record.slashes}


def of(member: int, messages: list[SignedMessage]) -> Message:
    """The member's own message among those of a phase."""
    return next(one for one in (Message.parse(signed.data) for signed in messages) if one.member == member)


def another(message: Message) -> Message:
    """A second statement in the same place: a commitment to something else."""
    return Message(message.kind, message.task, message.epoch, message.member, {"commitment": to_hex(bytes(32))})


def check_without(play: Play, record: Record, member: int, status: str) -> None:
    """The epoch was accepted with the updates of the others alone, and everybody moved on."""
    others = set(play.first_roles.proposers) - {member}
    assert statuses(record) == {member: status} | dict.fromkeys(others, "accepted")
    assert record.accepted and play.state.adapter == record.adapter != play.first_adapter
    assert {proposer for proposer, _ in record.candidate.weights} == others
    assert set(record.rewards) == others | set(play.first_roles.voters)
    after = play.losses()
    assert sum(after.values()) < sum(play.first_losses.values())


class Sends(Behaviour):
    """A proposer that sends what a function makes of its honest update."""

    def __init__(self, make: Callable[[Adapter], bytes]) -> None:
        super().__init__(1.0)
        self._make = make

    def payload(self, context: Context, update: Adapter, encode: Callable[[Adapter], bytes]) -> bytes:
        return self._make(update)


class Equivocates(Behaviour):
    """A member that says as many other things besides its messages of one kind."""

    def __init__(self, kind: Kind, times: int = 1) -> None:
        super().__init__(1.0)
        self._kind, self._times = kind, times

    def messages(self, context: Context, message: Message) -> Sequence[Message]:
        if message.kind is not self._kind:
            return (message,)
        assert message.member == context.member and message.epoch == context.state.epoch
        bodies = [{"commitment": to_hex(bytes([mark]) * 32)} for mark in range(self._times)]
        return [message, *(Message(message.kind, message.task, message.epoch, message.member, one) for one in bodies)]


def scaled(update: Adapter, factor: float) -> Adapter:
    return {key: tensor * factor for key, tensor in update.items()}


def uphill(update: Adapter) -> bytes:
    """Steps back in place of the steps forth: B starts at zero, so with A as it was the product changes its sign."""
    return canonical_bytes({key: factor * (-2 if "lora_B" in key else 0) for key, factor in update.items()})


PAYLOADS: dict[str, Behaviour] = {
    **{name: get_behaviour(name)(3.0) for name in ("nan", "wrong_shape", "wrong_dtype")},
    "nothing": Sends(lambda update: b""),
    "garbage": Sends(lambda update: b"\xff" * 4096),
    "header_of_a_terabyte": Sends(lambda update: (1 << 40).to_bytes(8, "little") + b"{}"),
    "one_byte_more": Sends(lambda update: canonical_bytes(update) + b"\0"),
    "one_byte_less": Sends(lambda update: canonical_bytes(update)[:-1]),
    "infinite": Sends(lambda update: canonical_bytes(scaled(update, float("inf")))),
    "beyond_the_bound": Sends(lambda update: canonical_bytes(scaled(update, 1e9))),
    "a_factor_missing": Sends(lambda update: canonical_bytes({key: update[key] for key in sorted(update)[1:]})),
    "a_factor_more": Sends(lambda update: canonical_bytes({**update, "lm_head.weight": torch.zeros(1)})),
    "with_metadata": Sends(lambda update: safetensors.torch.save(update, {"note": "hello"})),
}


@pytest.mark.parametrize("attack", PAYLOADS)
def test_a_malformed_update_under_a_valid_signature_is_refused_and_slashed(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    play = alliance.found()
    cheat = play.state.roles.proposers[0]
    monkeypatch.setattr(alliance.member(cheat), "behaviour", PAYLOADS[attack])
    record = play.epoch()
    check_without(play, record, cheat, "malformed")
    assert slashed(record) == {cheat: "malformed"}
    stake = play.first_members[cheat].stake
    assert record.slashes[0].amount == stake // 10 == stake - play.state.members[cheat].stake
    assert play.dropped == [] and play.refusals() == {}


def test_a_harmful_update_is_left_out_and_slashed(alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch) -> None:
    cheat = 6  # with weights as random as these, some members' steps back help others
    play = next(play for play in iter(alliance.found, None) if cheat in play.state.roles.proposers)
    monkeypatch.setattr(alliance.member(cheat), "behaviour", Sends(uphill))
    record = play.epoch()
    check_without(play, record, cheat, "harmful")
    assert slashed(record) == {cheat: "harmful"}


def test_an_epoch_without_a_valid_update_is_rejected_and_settled(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = alliance.found()
    for cheat in play.first_roles.proposers:
        monkeypatch.setattr(alliance.member(cheat), "behaviour", PAYLOADS["nan"])
    record = play.epoch()
    assert not record.accepted and record.candidate.candidate is None
    assert slashed(record) == dict.fromkeys(sorted(play.first_roles.proposers), "malformed")
    assert play.state.epoch == 2 and play.state.adapter == play.first_adapter
    assert play.losses() == play.first_losses


@pytest.mark.parametrize(("phase", "status"), [("train", "refused"), ("publish", "missing")])
def test_a_forged_signature_is_dropped_and_nobody_is_slashed(alliance: PlainAlliance, phase: str, status: str) -> None:
    play = alliance.found()
    victim, forger = play.state.roles.proposers[:2]

    def forge(messages: list[SignedMessage]) -> list[SignedMessage]:
        genuine = of(victim, messages)
        return [play.sign(genuine, alliance.signer(forger)) if m.data == genuine.data else m for m in messages]

    record = play.epoch(during(phase, forge))
    check_without(play, record, victim, status)
    assert record.slashes == ()
    assert play.dropped == [f"member {victim} did not sign this {'commitment' if phase == 'train' else 'manifest'}"]


def test_nobody_is_slashed_for_what_another_key_signed_in_its_name(alliance: PlainAlliance) -> None:
    """A forged second commitment would prove equivocation if it counted."""
    play = alliance.found()
    victim, forger = play.state.roles.proposers[:2]
    add = during("train", lambda sent: [play.sign(another(of(victim, sent)), alliance.signer(forger)), *sent])
    record = play.epoch(add)
    assert set(statuses(record).values()) == {"accepted"} and record.slashes == ()
    assert play.dropped == [f"member {victim} did not sign this commitment"]


def test_garbage_is_dropped(alliance: PlainAlliance) -> None:
    play = alliance.found()

    def litter(messages: list[SignedMessage]) -> list[SignedMessage]:
        data, signature = messages[0].data, messages[0].signature
        value = json.loads(data)
        stranger = json.dumps({**value, "member": 99}, sort_keys=True, separators=(",", ":")).encode()
        negative = json.dumps({**value, "member": -1}, sort_keys=True, separators=(",", ":")).encode()
        return [
            SignedMessage(b"", b""),
            SignedMessage(b"\xff\x00\xfe" * 100, signature),
            SignedMessage(b"[" * 100_000, signature),
            SignedMessage(b"{}", signature),
            SignedMessage(json.dumps(value).encode(), signature),  # not canonical
            SignedMessage(data[:-1], signature),
            SignedMessage(data + b" " * (1 << 20), signature),
            SignedMessage(stranger, signature),
            SignedMessage(negative, signature),
            SignedMessage(data, b""),
            SignedMessage(data, bytes(65)),
            SignedMessage(data, b"\xff" * 65),
            SignedMessage(data, signature + b"\0"),
            *messages,
        ]

    record = play.epoch(during("train", litter))
    assert set(statuses(record).values()) == {"accepted"} and record.slashes == ()
    assert len(play.dropped) == 13 and not any("\n" in reason for reason in play.dropped)


def test_nodes_drop_what_a_careless_committee_lets_through(alliance: PlainAlliance) -> None:
    """Every node checks signatures itself, so garbage and forgeries in the bulletin change nothing."""
    play = alliance.found()
    for phase in ("train", "acknowledge"):
        play.exchange(phase)
    play.exchange("publish")
    bulletin = play.bulletins["publish"]
    proposer = play.state.roles.proposers[0]
    forged = play.sign(another(of(proposer, list(bulletin))), alliance.signer(play.state.roles.voters[0]))
    littered = (SignedMessage(b"\xff", b""), forged, *bulletin, SignedMessage(bulletin[0].data, bytes(65)))
    clean = [result.messages for _, result in play.nodes.commit_ballots_a(bulletin)]
    assert [result.messages for _, result in play.nodes.commit_ballots_a(littered)] == clean


def test_messages_of_another_epoch_task_or_phase_are_dropped(alliance: PlainAlliance) -> None:
    other = alliance.found()
    foreign = other.exchange("train")
    play = alliance.found()
    play.epoch()
    old = play.bulletins["train"]
    late: list[SignedMessage] = []

    def keep_one_back(phase: str, messages: list[SignedMessage]) -> list[SignedMessage]:
        if phase == "train":
            late.append(messages.pop())
        return [*messages, *late, *foreign, *old] if phase == "acknowledge" else messages

    record = play.epoch(keep_one_back)
    sender = Message.parse(late[0].data).member
    assert statuses(record)[sender] == "refused" and sender not in slashed(record)
    told = [reason for reason in play.dropped if "another task or epoch" in reason]
    assert len(told) == len(foreign) + len(old)
    assert [reason for reason in play.dropped if reason not in told] == [
        f"member {sender} sent commitment when acknowledgement was due"
    ]


def test_updates_of_an_epoch_that_did_not_end_are_fetched_again(alliance: PlainAlliance) -> None:
    """Another task may draw the same proposer and so get the same payload, which the store has lost by then."""
    play = alliance.found()
    for phase in ("train", "acknowledge", "publish", "commit_ballots_a"):
        play.exchange(phase)
    updates = [worker.bench.updates for worker in alliance.nodes]
    sent = [Message.parse(one.data) for one in play.bulletins["publish"]]
    payloads = [from_hex(one.body["payload"]) for one in sent if one.kind is Kind.MANIFEST]
    assert any(one.kept(payloads) for one in updates)
    alliance.found()
    assert not any(one.kept(payloads) for one in updates)


def lose(path: Path) -> None:
    path.unlink()


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def swell(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(1 << 20))


@pytest.mark.parametrize("damage", [lose, corrupt, swell])
def test_a_payload_that_the_store_lost_is_unseen_and_nobody_is_slashed(
    alliance: PlainAlliance, damage: Callable[[Path], None]
) -> None:
    play = alliance.found()
    proposer = play.state.roles.proposers[0]
    whole: dict[Path, bytes] = {}

    def after_publishing(messages: list[SignedMessage]) -> list[SignedMessage]:
        payload = from_hex(of(proposer, messages).body["payload"])
        blob = Path(alliance.specs[0].store_url) / payload.hex()[:2] / payload.hex()
        whole[blob] = blob.read_bytes()
        damage(blob)
        return messages

    record = play.epoch(during("publish", after_publishing))
    check_without(play, record, proposer, "unseen")
    assert record.slashes == ()
    for blob, data in whole.items():  # other tasks here share the store
        blob.write_bytes(data)


def test_exact_copies_between_two_members_are_slashed(alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads open only after all commitments are listed: two that are equal were arranged."""
    play = alliance.found()
    first, second, honest = play.state.roles.proposers
    bench = alliance.nodes[alliance.node_of(first)]._bench
    shared = canonical_bytes(bench.trainer.train([first], 1, play.state.adapter)[first].delta)
    for member in (first, second):
        monkeypatch.setattr(alliance.member(member), "behaviour", Sends(lambda update: shared))
    record = play.epoch()
    assert statuses(record) == {first: "copied", second: "copied", honest: "accepted"}
    assert slashed(record) == {first: "copied", second: "copied"}
    assert record.accepted and record.candidate.weights == ((honest, 1),)


@pytest.mark.parametrize("kind", [Kind.COMMITMENT, Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_B_COMMITMENT])
def test_equivocation_is_slashed(alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    """Two different signed statements in one place prove it; neither counts."""
    play = alliance.found()
    roles = play.state.roles
    cheat = (roles.proposers if kind is Kind.COMMITMENT else roles.voters)[0]
    monkeypatch.setattr(alliance.member(cheat), "behaviour", Equivocates(kind))
    record = play.epoch()
    assert slashed(record) == {cheat: "equivocated"}
    assert record.accepted and play.dropped == []
    if kind is Kind.COMMITMENT:
        check_without(play, record, cheat, "refused")
    else:
        assert cheat not in record.rewards and set(statuses(record).values()) == {"accepted"}
    store = BlobStore(alliance.specs[0].store_url)
    assert all(store.has(digest) for _, _, digest in record.messages)  # whoever replays the record needs them


def test_the_proof_of_equivocation_is_two_messages_however_many_are_sent(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = alliance.found()
    cheat = play.state.roles.proposers[0]
    monkeypatch.setattr(alliance.member(cheat), "behaviour", Equivocates(Kind.COMMITMENT, 20))
    record = play.epoch()
    assert slashed(record) == {cheat: "equivocated"}
    assert sum(kind == Kind.COMMITMENT and member == cheat for kind, member, _ in record.messages) == 2


class Silent(Behaviour):
    """A member that opens nothing that it committed to."""

    def messages(self, context: Context, message: Message) -> Sequence[Message]:
        return () if message.kind is Kind.MANIFEST else (message,)


def test_a_proposer_that_opens_nothing_is_left_out(alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch) -> None:
    play = alliance.found()
    cheat = play.state.roles.proposers[0]
    monkeypatch.setattr(alliance.member(cheat), "behaviour", Silent(1.0))
    record = play.epoch()
    check_without(play, record, cheat, "missing")
    assert record.slashes == ()


class Partial(Behaviour):
    """A voter that says of each proposal which one it is, and of the candidate that it is good."""

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        assert proposal.measured[proposal.proposer] == gain and set(proposal.measured) == set(
            context.state.roles.proposers
        )
        return 1_000_000 * (1 + proposal.proposer) + context.member

    def ballot_b(self, context: Context, candidate: Candidate, gain: int) -> int:
        assert dict.fromkeys(candidate.weights, 1) == dict(candidate.weights) != {}
        return 777


def test_a_voter_knows_whose_proposal_it_judges(alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch) -> None:
    play = alliance.found()
    voter = play.state.roles.voters[0]
    monkeypatch.setattr(alliance.member(voter), "behaviour", Partial(1.0))
    record = play.epoch()
    for proposal in record.proposals:
        assert proposal.consensus and proposal.consensus.gains[voter] == 1_000_000 * (1 + proposal.member) + voter
    assert record.candidate.consensus and record.candidate.consensus.gains[voter] == 777


class Reversed(Behaviour):
    """Trains on its rows read backwards."""

    def data(self, context: Context, rows: Sequence[Row]) -> Sequence[Row]:
        return [(list(reversed(ids)), has_loss) for ids, has_loss in rows]


def test_a_member_may_train_on_other_rows_than_it_drew(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its own update changes, as if nobody else trained in the batch."""
    monkeypatch.setitem(BEHAVIOURS, "reversed", Reversed)
    honest = PlainAlliance(tmp_path / "honest", tiny_config(tiny_model_dir)).found()
    cheat, *others = honest.state.roles.proposers
    config = replace(tiny_config(tiny_model_dir), adversary=AdversaryConfig(members={cheat: "reversed"}))
    play = PlainAlliance(tmp_path / "cheat", config).found()
    first, second = ({one.member: one.payload for one in told.epoch().proposals} for told in (honest, play))
    assert first[cheat] != second[cheat]
    assert [first[member] for member in others] == [second[member] for member in others]


def test_an_epoch_whose_ballots_stay_shut_is_rejected_and_signed(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four voters keep their ballots B back, and sign what comes of it: nobody honest is hurt."""
    play = alliance.found()
    for voter in play.state.roles.voters[:2]:
        monkeypatch.setattr(alliance.member(voter), "behaviour", get_behaviour("withheld_reveal")())
    record = play.epoch()
    assert not record.accepted and record.candidate.candidate is None and not record.slashes
    assert set(record.reveals) == set(record.roles.voters[2:]) and not play.refusals()
    assert play.epoch().accepted is not None and play.state.epoch == 3


def test_members_behave_differently_and_accomplices_find_each_other(tiny_model_dir: Path, tmp_path: Path) -> None:
    """As configured: two collude, one sends what is malformed; each vote for an accomplice is three times its size."""
    named = {1: "collude", 2: "nan", 4: "collude", 5: "collude"}
    config = replace(tiny_config(tiny_model_dir), adversary=AdversaryConfig(members=named))
    ours = PlainAlliance(tmp_path, config)
    play = ours.found()
    assert {number: type(ours.member(number).behaviour) for number in range(7)} == {
        number: BEHAVIOURS[named.get(number, "none")] for number in range(7)
    }
    contexts = [ours.member(number).context(play.state) for number in (1, 2, 4, 5)]
    assert [sorted(context.accomplices) for context in contexts] == [[1, 4, 5], [2], [1, 4, 5], [1, 4, 5]]
    assert len({contexts[0].randomness, contexts[2].randomness, contexts[3].randomness}) == 1
    assert contexts[1].randomness != contexts[0].randomness != ours.member(1).context(skip(play.state)).randomness
    while not (coalition := {1, 4, 5} & set(play.state.roles.proposers)) or 2 not in play.state.roles.proposers:
        play = ours.found()
    record = play.epoch()
    assert statuses(record)[2] == "malformed" and slashed(record)[2] == "malformed"
    assert all(statuses(record)[member] not in ("malformed", "copied") for member in coalition)
