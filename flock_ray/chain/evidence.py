"""What signatures prove to the settlement contract besides a settlement: a voter's presence, an equivocation."""

from __future__ import annotations

from collections.abc import Iterable

from eth_utils.address import to_checksum_address

from flock_ray.chain import calls
from flock_ray.chain.calls import Call
from flock_ray.chain.challenges import Challenge
from flock_ray.chain.eip712 import Domain, correction_digest, message_digest, report_digest, report_hash
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.keys import compact, recover
from flock_ray.chain.reader import ChainReader
from flock_ray.errors import ConfigError
from flock_ray.protocol.contest_message import ContestMessage
from flock_ray.protocol.message import Message, SignedMessage
from flock_ray.protocol.roles import draw_seats

_SETTLEMENT = "EpochSettlement"


class Evidence:
    """Makes calls of evidence about one task."""

    def __init__(self, reader: ChainReader, domain: Domain, task: bytes) -> None:
        """Look at a task.

        Args:
            reader: of the contracts.
            domain: chain and settlement contract that the signatures are bound to.
            task: id.
        """
        self._reader, self._domain, self._task = reader, domain, task

    def answer(self, challenge: Challenge, signatures: Iterable[bytes]) -> Call | None:
        """Show the seat's signature if it is among `signatures` of 65 bytes; None if it is not."""
        digest = self._domain.digest(challenge.report)
        for signature in signatures:
            if recover(digest, signature) == challenge.owner:
                at = self._reader.addresses
                return calls.answer_challenge(at, self._task, challenge.epoch, challenge.seat, compact(signature))
        return None

    def absent(self, report: Report) -> list[int]:
        """Seats whose signature the last settled report came without, and that nobody has challenged yet.

        Args:
            report: the one that was settled last.
        """
        absent = self._reader.struct(_SETTLEMENT, "headOf", self._task)["clock"]["absent"]
        seats = [seat for seat in range(self._num_voters()) if absent >> seat & 1]
        return [seat for seat in seats if not self._deadline(report.epoch, seat)]

    def _deadline(self, epoch: int, seat: int) -> int:
        return int(self._reader.struct(_SETTLEMENT, "challengeOf", self._task, epoch, seat)["deadline"])

    def _num_voters(self) -> int:
        return int(self._reader.struct(_SETTLEMENT, "headOf", self._task)["clock"]["numVoters"])

    def accuse(self, account: str, seed: bytes, first: SignedMessage, second: SignedMessage) -> Call:
        """Have a member slashed for two different messages of one kind in one epoch, or on one day of a contest.

        Args:
            account: of the member.
            seed: of the epoch that both were signed in.
            first: one message.
            second: the other.

        Raises:
            ConfigError: the messages prove no equivocation.
        """
        earlier, later = statement(first.data), statement(second.data)
        kind, epoch, task = earlier.kind, earlier.epoch, earlier.task
        if (kind, epoch, task) != (later.kind, later.epoch, later.task) or task != self._task:
            raise ConfigError("the two messages are not of one kind, epoch and task")
        if earlier.digest == later.digest:
            raise ConfigError("the two messages are the same: no contradiction")
        for message, signature in ((earlier, first.signature), (later, second.signature)):
            digest = message_digest(self._domain, self._task, message.epoch, seed, str(message.kind), message.digest)
            if recover(digest, signature) != account:
                raise ConfigError(f"a message is not signed by {account} under the seed of epoch {message.epoch}")
        both = compact(first.signature) + compact(second.signature)
        case = self._task, account, epoch, seed, str(kind), earlier.digest, later.digest
        return calls.slash_equivocation(self._reader.addresses, case, both)

    def accuse_of_reports(self, first: tuple[Report, bytes], second: tuple[Report, bytes]) -> tuple[str, Call]:
        """Have whoever signed two different reports of one epoch slashed; returns its account, too.

        Args:
            first: a report and its 65-byte signature.
            second: the other.

        Raises:
            ConfigError: the reports prove no equivocation.
        """
        reports = first[0], second[0]
        places = {(report.task, report.epoch, report.seed) for report in reports}
        if len(places) != 1 or reports[0].task != self._task:
            raise ConfigError("the two reports are not of one task, epoch and seed")
        if reports[0] == reports[1]:
            raise ConfigError("the two reports are the same: no contradiction")
        signers = {recover(report_digest(self._domain, report), signature) for report, signature in (first, second)}
        account = signers.pop()
        if signers or account is None:
            raise ConfigError("the two reports are not signed by one account")
        both = compact(first[1]) + compact(second[1])
        return account, calls.slash_report_equivocation(self._reader.addresses, account, *reports, both)

    def settlement(self, report: Report, signatures: Iterable[bytes]) -> Call:
        """Settle the next epoch with the signatures of 65 bytes that are by owners of its committee's seats."""
        view = self._reader.task_view(self._task)
        owners = view.slot_owners(report.epoch)
        slots = draw_seats(view.seed, self._task, report.epoch, len(owners), view.terms.num_voters)
        committee = [view.members[owners[slot]].account for slot in slots]
        seats, packed = self._by_seat(report_digest(self._domain, report), committee, signatures)
        return calls.settle(self._reader.addresses, report, seats, packed)

    def correction_digest(self, report: Report, root: bytes, total: int) -> bytes:
        """What the committee of the last settled report signs to put another root in the place of a disabled one."""
        disabled = self._reader.struct("RewardDistributor", "queueOf", self._task)["disabled"]
        return correction_digest(self._domain, report_hash(report), disabled, root, total)

    def correction(self, report: Report, root: bytes, total: int, signatures: Iterable[bytes]) -> Call:
        """Put another root in the place of one that the guardian disabled.

        Args:
            report: the one that was settled last.
            root: of the rewards that are paid instead.
            total: their sum, wei.
            signatures: of 65 bytes, of the correction's digest; those by owners of the committee's seats count.
        """
        clock = self._reader.struct(_SETTLEMENT, "headOf", self._task)["clock"]
        draw = report.seed, self._task, report.epoch, clock["numSlots"], clock["numVoters"]
        slots = self._reader.ask(_SETTLEMENT, "drawSeats", *draw)
        owners = self._reader.ask("TaskRegistry", "slotOwners", self._task, slots)
        seats, packed = self._by_seat(self.correction_digest(report, root, total), owners, signatures)
        return calls.correct(self._reader.addresses, report, root, total, seats, packed)

    def _by_seat(self, digest: bytes, owners: Iterable[str], signatures: Iterable[bytes]) -> tuple[int, bytes]:
        """Bitmap of the seats whose owners signed a digest, and their signatures in the order of seats, EIP-2098."""
        signed = {recover(digest, signature): signature for signature in signatures}
        own = [signed.get(to_checksum_address(owner)) for owner in owners]
        bitmap = sum(1 << seat for seat, signature in enumerate(own) if signature)
        return bitmap, b"".join(compact(signature) for signature in own if signature)


def statement(data: bytes) -> Message | ContestMessage:
    """The message of a member of an alliance or of a contest in these bytes.

    Raises:
        ConfigError: they are neither, and so prove nothing.
    """
    reasons = []
    for kind in (Message, ContestMessage):
        try:
            return kind.parse(data)
        except ValueError as error:
            reasons.append(str(error))
    raise ConfigError(f"a message that does not parse proves nothing: {'; '.join(reasons)}")
