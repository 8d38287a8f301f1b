"""What becomes of each submission before it is scored: commitments, reveals, shuffled ids, the gate, copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flock_ray.protocol.contest_message import ContestInbox, ContestKind, Finding, GateBody, ManifestBody
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.encoding import from_hex
from flock_ray.protocol.hashing import keccak, tag, tagged, word
from flock_ray.protocol.message import AcknowledgementBody, CommitmentBody

REASONS = {
    "not_acknowledged": "fewer than a quorum of the committee's seats had its commitment in time",
    "equivocated": "its node signed two messages of one kind",
    "stake_too_small": "its node has less than half of the minimum stake left",
    "not_revealed": "it was not revealed in time",
    "not_opened": "what was revealed does not open the commitment",
    "wrong_base": "it is made for another base model",
    "over_limit": "the day takes no more submissions, and those of larger stakes came first",
    "ungated": "no quorum of the committee's seats agreed about it",
    "unavailable": "a quorum of the committee's seats could not get its payload",
    "malformed": "its payload is no adapter in the contest's format",
    "not_finite": "its payload holds infinities or NaN",
    "too_large": "its rank or its size is above the contest's limit",
    "wrong_keys": "its payload names layers that the base model does not have, or none",
    "wrong_shapes": "its factors do not have the base model's shapes",
    "unscored": "no quorum of a rung's seats scored it",
    "no_loss": "it has no finite loss on some row",
    "no_quorum": "a rung ended without a quorum of ballots",
    "worse": "it was worse than the last one kept, beyond the band",
    "copy": "it lies within the copy distance of an earlier submission and is not better beyond the error",
}
"""Why a submission is refused, eliminated or unpaid, for its owner."""

SLASHED_FINDINGS = (Finding.MALFORMED, Finding.NOT_FINITE)
"""What a node's signature on its payload's hash proves to be its fault, whoever made the payload."""


@dataclass(frozen=True)
class Step:
    """One state of a submission's way through the day.

    Attributes:
        state: `committed`, `revealed`, `gated`, `scored`, `eliminated`, `ranked` or `refused`.
        phase: the phase of `ContestState.schedule` whose messages decided it.
        reason: key of REASONS; empty where all is well.
    """

    state: str
    phase: str
    reason: str = ""


@dataclass
class Entry:
    """A node's submission of the day, while the day is derived.

    Attributes:
        member: its node.
        payload: SHA-256 of the adapter; None before it is revealed.
        number: its shuffled id; None before it is revealed.
        copy_of: payload of another account's earlier submission that it is a copy of.
        unpaid: whether it is a copy that is not better beyond the error.
        steps: its states so far.
    """

    member: int
    payload: bytes | None = None
    number: int | None = None
    copy_of: bytes | None = None
    unpaid: bool = False
    steps: list[Step] = field(default_factory=list)

    @property
    def step(self) -> Step:
        """Its last state."""
        return self.steps[-1]

    @property
    def running(self) -> bool:
        """Whether nothing has refused or eliminated it."""
        return self.step.state not in ("refused", "eliminated")

    def at(self, schedule: Mapping[str, int], elapsed: int) -> Status:
        """What its owner is told at a time of the day, whatever else is known already.

        Args:
            schedule: of the day.
            elapsed: seconds since the day's start.
        """
        over = [step for step in self.steps if schedule[step.phase] <= elapsed]
        ahead = self.steps[len(over) :]
        if not ahead:
            last = over[-1]
            return Status(last.state, last.phase, last.reason, None)
        now = over[-1] if over else Step("committed", "commit")
        return Status(now.state, now.phase, now.reason, schedule[ahead[0].phase])


@dataclass(frozen=True)
class Status:
    """A submission's state for its owner.

    Attributes:
        state, phase, reason: as of a `Step`.
        due: seconds from the day's start until the next state at the latest; None where this one is the day's last.
    """

    state: str
    phase: str
    reason: str
    due: int | None

    def text(self) -> str:
        """One line."""
        where = f" in {self.phase.removesuffix('_audit')}" if self.phase.endswith("_audit") else ""
        why = f": {REASONS[self.reason]}" if self.reason else ""
        return f"{self.state}{where}{why}"


@dataclass(frozen=True)
class Entries:
    """The day's submissions.

    Attributes:
        all: of every node that committed, by ascending member.
        shuffle: seed of the ids, of the order of the rows and of the first rung.
        order: every payload to score and each reference of a copy, in the shuffled order.
    """

    all: tuple[Entry, ...]
    shuffle: bytes
    order: tuple[bytes, ...]

    def running(self) -> list[Entry]:
        """Those in the race: let through the gate, and not refused or eliminated since."""
        return [entry for entry in self.all if entry.running]

    def racing(self) -> dict[bytes, bool]:
        """{payload: whether one of its submissions is no copy} of those in the race."""
        racing: dict[bytes, bool] = {}
        for entry in self.running():
            assert entry.payload is not None
            racing[entry.payload] = racing.get(entry.payload, False) or entry.copy_of is None
        return racing


def _committed(state: ContestState, inbox: ContestInbox) -> list[Entry]:
    """An entry for each node's commitment; those that no quorum of seats listed are refused."""
    seats: Counter[bytes] = Counter()
    for voter, held in state.roles.voter_seats.items():
        if message := inbox.single(ContestKind.ACKNOWLEDGEMENT, voter):
            for digest in message.read(AcknowledgementBody).commitments:
                seats[from_hex(digest)] += held
    entries = []
    committing = {message.member for message in inbox.messages if message.kind is ContestKind.COMMITMENT}
    for member in sorted(member for member in committing if not state.members[member].slots):
        message = inbox.single(ContestKind.COMMITMENT, member)
        entry = Entry(member, steps=[Step("committed", "acknowledge")])
        if message is None or member in inbox.equivocators:
            entry.steps.append(Step("refused", "acknowledge", "equivocated"))
        elif not state.may_submit(member):
            entry.steps.append(Step("refused", "acknowledge", "stake_too_small"))
        elif seats[message.digest] < state.roles.quorum:
            entry.steps.append(Step("refused", "acknowledge", "not_acknowledged"))
        entries.append(entry)
    return entries


def _reveal(state: ContestState, inbox: ContestInbox, entries: Sequence[Entry]) -> bytes:
    """Open commitments, in place; returns the seed that nobody knew while it could still change its adapter."""
    salts = b""
    for entry in entries:
        if not entry.running:
            continue
        committed, message = (
            inbox.single(kind, entry.member) for kind in (ContestKind.COMMITMENT, ContestKind.MANIFEST)
        )
        assert committed is not None
        if message is None:
            entry.steps.append(Step("refused", "reveal", "not_revealed"))
            continue
        manifest = message.read(ManifestBody)
        payload, salt = from_hex(manifest.payload), from_hex(manifest.salt)
        commitment = state.scope.payload_commitment(state.epoch, entry.member, payload, salt)
        if from_hex(committed.read(CommitmentBody).commitment) != commitment:
            entry.steps.append(Step("refused", "reveal", "not_opened"))
            continue
        entry.payload = payload
        salts += word(entry.member) + salt
        if from_hex(manifest.base_model) != state.terms.base_model:
            entry.steps.append(Step("refused", "reveal", "wrong_base"))
        else:
            entry.steps.append(Step("revealed", "reveal"))
    digest = keccak(tag("flock_ray/contest/salts/1") + salts)
    return tagged("flock_ray/contest/shuffle/1", state.seed, digest)


def shuffled(shuffle: bytes, payload: bytes) -> bytes:
    """Key of a payload in the order of ids and columns: nobody can choose it, and it tells no account."""
    return tagged("flock_ray/contest/order/1", shuffle, payload)


def _number(state: ContestState, entries: Sequence[Entry], shuffle: bytes) -> None:
    """Give ids, and refuse what is over the day's limit: the smallest stakes, in place."""
    revealed = [entry for entry in entries if entry.running and entry.payload is not None]
    keys = {entry.member: (shuffled(shuffle, entry.payload or b""), entry.member) for entry in revealed}
    stakes = {entry.member: state.effective_stake(state.members[entry.member]) for entry in revealed}
    for number, entry in enumerate(sorted(revealed, key=lambda entry: keys[entry.member])):
        entry.number = number
    by_stake = sorted(revealed, key=lambda entry: (-stakes[entry.member], keys[entry.member]))
    for entry in by_stake[state.parameter("max_submissions") :]:
        entry.steps.append(Step("refused", "reveal", "over_limit"))


def _gate(state: ContestState, inbox: ContestInbox, entries: Sequence[Entry]) -> dict[bytes, Counter[bytes | None]]:
    """Let submissions through on which a quorum of seats agrees, in place.

    Returns:
        {payload: seats by the earlier submission that they find it to be a copy of}.
    """
    findings: dict[bytes, Counter[Finding]] = {}
    copies: dict[bytes, Counter[bytes | None]] = {}
    for voter, held in state.roles.voter_seats.items():
        if message := inbox.single(ContestKind.GATE, voter):
            for one in message.read(GateBody).findings:
                payload = from_hex(one.payload)
                findings.setdefault(payload, Counter())[one.finding] += held
                original = None if one.copy_of is None else from_hex(one.copy_of)
                copies.setdefault(payload, Counter())[original] += held
    for entry in entries:
        if not entry.running or entry.payload is None:
            continue
        seats = findings.get(entry.payload, Counter())
        agreed = [finding for finding in Finding if seats[finding] >= state.roles.quorum]
        if agreed == [Finding.VALID]:
            entry.steps.append(Step("gated", "gate"))
        else:
            entry.steps.append(Step("refused", "gate", str(agreed[0]) if agreed else "ungated"))
    return copies


def _find_copies(
    state: ContestState, entries: Sequence[Entry], copies: Mapping[bytes, Counter[bytes | None]]
) -> list[bytes]:
    """Mark copies of another account's earlier submission, in place; returns the originals of earlier days.

    The first submission of a payload owns it: of an earlier day, or of this day the one with the lowest id. Whoever
    submits its own adapter again copies nobody.
    """
    past = len(state.earlier)
    owners = {earlier.payload: (place, earlier.member) for place, earlier in enumerate(state.earlier)}
    numbered = sorted((entry for entry in entries if entry.running), key=lambda entry: entry.number or 0)
    for entry in numbered:
        assert entry.payload is not None and entry.number is not None
        owners.setdefault(entry.payload, (past + entry.number, entry.member))
    references = []
    for entry in numbered:
        assert entry.payload is not None
        named = [
            original
            for original, seats in copies.get(entry.payload, Counter()).items()
            if original is not None and seats >= state.roles.quorum
        ]
        place = owners[entry.payload]
        original = named[0] if named and named[0] in owners and owners[named[0]] < place else entry.payload
        if owners[original][1] != entry.member:
            entry.copy_of = original
            if owners[original][0] < past:
                references.append(original)
    return references


def reveal(state: ContestState, inbox: ContestInbox) -> tuple[list[Entry], bytes]:
    """The day's submissions up to their ids, and the seed that shuffled them: the gate looks at those that run."""
    entries = _committed(state, inbox)
    shuffle = _reveal(state, inbox, entries)
    _number(state, entries, shuffle)
    return entries, shuffle


def enter(state: ContestState, inbox: ContestInbox) -> Entries:
    """The day's submissions up to the gate, and the copies among them."""
    entries, shuffle = reveal(state, inbox)
    copies = _gate(state, inbox, entries)
    references = _find_copies(state, entries, copies)
    payloads = {entry.payload for entry in entries if entry.running and entry.payload} | set(references)
    order = tuple(sorted(payloads, key=lambda payload: shuffled(shuffle, payload)))
    return Entries(tuple(entries), shuffle, order)
