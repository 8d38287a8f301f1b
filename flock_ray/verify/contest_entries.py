"""The submissions of a contest's day up to the race, for the verifier: who entered, under which id, and who copied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from flock_ray.chain.keys import recover
from flock_ray.errors import VerificationError
from flock_ray.protocol.contest_message import ContestKind, ContestMessage, Finding, GateBody, ManifestBody
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.encoding import from_hex
from flock_ray.protocol.hashing import keccak, tag, tagged, word
from flock_ray.protocol.message import AcknowledgementBody, CommitmentBody, SignedMessage
from flock_ray.verify.draw import Seats, seats_of
from flock_ray.verify.report import SigningDomain

_ORDER = tuple(ContestKind)


@dataclass(frozen=True)
class DayMessages:
    """The messages of a day by (kind, member), of each pair by ascending digest and once."""

    sent: dict[tuple[ContestKind, int], tuple[ContestMessage, ...]]

    @classmethod
    def sort(cls, messages: Iterable[ContestMessage]) -> DayMessages:
        """Sort messages that were opened."""
        by_pair: dict[tuple[ContestKind, int], dict[bytes, ContestMessage]] = {}
        for message in messages:
            by_pair.setdefault((message.kind, message.member), {})[message.digest] = message
        pairs = sorted(by_pair, key=lambda pair: (_ORDER.index(pair[0]), pair[1]))
        return cls({pair: tuple(by_pair[pair][digest] for digest in sorted(by_pair[pair])) for pair in pairs})

    @property
    def named(self) -> list[tuple[str, int, bytes]]:
        """(kind, member, digest) as records list them: at most two of a pair."""
        return [(str(kind), member, one.digest) for (kind, member), all_ in self.sent.items() for one in all_[:2]]

    @property
    def contradicting(self) -> set[int]:
        """Members with two messages of one kind."""
        return {member for (_, member), messages in self.sent.items() if len(messages) > 1}

    def only(self, kind: ContestKind, member: int) -> ContestMessage | None:
        """A member's single message of a kind."""
        messages = self.sent.get((kind, member), ())
        return messages[0] if len(messages) == 1 else None

    def members(self, kind: ContestKind) -> list[int]:
        """Who sent a message of a kind, or several."""
        return sorted(member for sent, member in self.sent if sent is kind)


def open_contest_message(signed: SignedMessage, state: ContestState, domain: SigningDomain) -> ContestMessage:
    """The message that a member signed for the day that `state` starts.

    Raises:
        VerificationError: the bytes do not parse, are of another contest or day, or are not signed by their member.
    """
    try:
        message = ContestMessage.parse(signed.data)
    except ValueError as error:
        raise VerificationError(f"no message of the schema: {error}") from None
    if message.task != state.scope.task or message.epoch != state.epoch:
        raise VerificationError(f"a {message.kind} of day {message.epoch} of contest 0x{message.task.hex()}")
    if message.member >= len(state.members):
        raise VerificationError(f"a {message.kind} of member {message.member}, whom the contest does not have")
    digest = domain.message_digest(message.task, message.epoch, state.seed, str(message.kind), message.digest)
    if recover(digest, signed.signature) != state.members[message.member].account:
        raise VerificationError(f"member {message.member} did not sign this {message.kind}")
    return message


@dataclass
class Submission:
    """A submission; `steps` are (state, phase, reason)."""

    member: int
    steps: list[tuple[str, str, str]] = field(default_factory=list)
    payload: bytes | None = None
    number: int | None = None
    copy_of: bytes | None = None
    unpaid: bool = False

    @property
    def out(self) -> bool:
        """Whether it was refused or eliminated."""
        return self.steps[-1][0] in ("refused", "eliminated")

    def refuse(self, phase: str, reason: str) -> None:
        """End its way."""
        self.steps.append(("refused", phase, reason))


@dataclass(frozen=True)
class Field:
    """What enters the race: all submissions by member, the seed that shuffled them, and the payloads in that order."""

    submissions: list[Submission]
    shuffle: bytes
    payloads: list[bytes]


def salts_digest(salts: Iterable[tuple[int, bytes]]) -> bytes:
    """keccak(tag, member, salt, member, salt, ...)."""
    return keccak(tag("flock_ray/contest/salts/1") + b"".join(word(member) + salt for member, salt in salts))


def enter_field(state: ContestState, sent: DayMessages) -> Field:
    """The day's submissions through commitments, reveals and gate."""
    seats = seats_of(state)
    submissions = [
        Submission(member, [("committed", "acknowledge", "")])
        for member in sent.members(ContestKind.COMMITMENT)
        if state.members[member].slots == 0
    ]
    _acknowledge(state, sent, seats, submissions)
    salts = list(_open(state, sent, submissions))
    shuffle = tagged("flock_ray/contest/shuffle/1", state.seed, salts_digest(salts))
    _cut(state, submissions, shuffle)
    copies = _gate(sent, seats, submissions)
    originals = _copies(state, submissions, copies)
    racing = {one.payload for one in submissions if not one.out and one.payload} | originals
    return Field(submissions, shuffle, sorted(racing, key=lambda payload: _place(shuffle, payload)))


def _place(shuffle: bytes, payload: bytes) -> bytes:
    return tagged("flock_ray/contest/order/1", shuffle, payload)


def _acknowledge(state: ContestState, sent: DayMessages, seats: Seats, submissions: list[Submission]) -> None:
    listed = {
        voter: frozenset(message.read(AcknowledgementBody).commitments)
        for voter in set(seats.voters)
        if (message := sent.only(ContestKind.ACKNOWLEDGEMENT, voter))
    }
    for one in submissions:
        node, message = state.members[one.member], sent.only(ContestKind.COMMITMENT, one.member)
        if message is None or one.member in sent.contradicting:
            one.refuse("acknowledge", "equivocated")
        elif node.stake == 0 or node.stake * 2 < state.terms.min_node_stake:
            one.refuse("acknowledge", "stake_too_small")
        else:
            name = "0x" + message.digest.hex()
            if seats.held_by({voter for voter, names in listed.items() if name in names}) < seats.quorum:
                one.refuse("acknowledge", "not_acknowledged")


def _open(state: ContestState, sent: DayMessages, submissions: list[Submission]) -> Iterable[tuple[int, bytes]]:
    """Open commitments; yields (member, salt) of those that were opened."""
    for one in submissions:
        if one.out:
            continue
        committed, message = sent.only(ContestKind.COMMITMENT, one.member), sent.only(ContestKind.MANIFEST, one.member)
        if message is None or committed is None:
            one.refuse("reveal", "not_revealed")
            continue
        manifest = message.read(ManifestBody)
        payload, salt = from_hex(manifest.payload), from_hex(manifest.salt)
        sealed = tagged(
            "flock_ray/commitment/1",
            state.scope.chain_id,
            int.from_bytes(state.scope.contract, "big"),
            state.scope.task,
            state.epoch,
            one.member,
            payload,
            salt,
        )
        if sealed != from_hex(committed.read(CommitmentBody).commitment):
            one.refuse("reveal", "not_opened")
            continue
        one.payload = payload
        if from_hex(manifest.base_model) == state.terms.base_model:
            one.steps.append(("revealed", "reveal", ""))
        else:
            one.refuse("reveal", "wrong_base")
        yield one.member, salt


def stake_of(state: ContestState, member: int) -> int:
    """Own stake, and the part of its delegators' that counts."""
    holder = state.members[member]
    own = holder.stake - holder.delegated
    return own + holder.delegated * state.terms.mechanism_parameters["delegation_bp"] // 10_000


def _cut(state: ContestState, submissions: list[Submission], shuffle: bytes) -> None:
    """Ids in the shuffled order, of equal bytes by member; the day's limit keeps the largest stakes."""
    opened = [one for one in submissions if not one.out and one.payload]
    opened.sort(key=lambda one: (_place(shuffle, one.payload or b""), one.member))
    for number, one in enumerate(opened):
        one.number = number
    opened.sort(key=lambda one: stake_of(state, one.member), reverse=True)  # stable: ties stay in their order
    for one in opened[state.terms.mechanism_parameters["max_submissions"] :]:
        one.refuse("reveal", "over_limit")


def _gate(sent: DayMessages, seats: Seats, submissions: list[Submission]) -> dict[bytes, set[bytes]]:
    """Apply the findings of a quorum; returns {payload: originals that a quorum names}."""
    votes: Counter[tuple[bytes, Finding]] = Counter()
    names: Counter[tuple[bytes, bytes]] = Counter()
    for voter in seats.voters:  # a validator of two seats votes twice
        if message := sent.only(ContestKind.GATE, voter):
            for one in message.read(GateBody).findings:
                votes[from_hex(one.payload), one.finding] += 1
                if one.copy_of is not None:
                    names[from_hex(one.payload), from_hex(one.copy_of)] += 1
    for submission in submissions:
        if submission.out or submission.payload is None:
            continue
        agreed = [finding for finding in Finding if votes[submission.payload, finding] >= seats.quorum]
        if agreed == [Finding.VALID]:
            submission.steps.append(("gated", "gate", ""))
        else:
            submission.refuse("gate", str(agreed[0]) if agreed else "ungated")
    copies: dict[bytes, set[bytes]] = {}
    for (payload, original), held in names.items():
        if held >= seats.quorum:
            copies.setdefault(payload, set()).add(original)
    return copies


def _copies(state: ContestState, submissions: list[Submission], copies: dict[bytes, set[bytes]]) -> set[bytes]:
    """Say whose submission each copies; returns the originals of earlier days, which are scored along."""
    racing = sorted((one for one in submissions if not one.out), key=lambda one: one.number or 0)
    before = [(one.payload, one.member) for one in state.earlier]
    line = before + [(one.payload, one.member) for one in racing if one.payload]
    first = {payload: place for place, (payload, _) in reversed(list(enumerate(line)))}
    originals = set()
    for one in racing:
        assert one.payload is not None
        named = [other for other in copies.get(one.payload, ()) if first.get(other, len(line)) < first[one.payload]]
        original = named[0] if named else one.payload
        if line[first[original]][1] != one.member:
            one.copy_of = original
            if first[original] < len(before):
                originals.add(original)
    return originals
