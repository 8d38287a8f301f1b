"""Where a contest and strangers meet: small files in its store, each written once, under names that all can compute.

    contest/TASK/task.json                      chain, contract and terms
    contest/TASK/DAY/ATTEMPT/day.json           what a day starts from; a day that is played again has a next attempt
    contest/TASK/DAY/ATTEMPT/KIND/ACCOUNT.json  a stranger's signed message, by its account in lower case
    contest/TASK/DAY/ATTEMPT/lists.json         the committee's signed lists of commitments
    contest/TASK/DAY/ATTEMPT/status/PHASE.json  the states of the submissions when a phase is over

Whoever can write to the store can write these files. So nothing in them is trusted: messages count by their signatures,
terms by their hash on the chain, and a stranger opens its commitment only once the committee's signatures list it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from flock_ray.errors import StoreError
from flock_ray.protocol.contest_entries import Status
from flock_ray.protocol.contest_message import ContestKind
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.encoding import canonical_json, from_hex, parse_json, to_hex
from flock_ray.protocol.message import MAX_BYTES, SignedMessage
from flock_ray.protocol.state import Terms
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobMissingError, BlobStore, BlobTooLargeError
from flock_ray.store.failures import SegmentTakenError, StoreUnavailableError
from flock_ray.store.retry import retried

_MAX_FILE = 1 << 26
_MAX_MESSAGE = 2 * MAX_BYTES + 1_024
_MAX_DEPTH = 6


@dataclass(frozen=True)
class OpenDay:
    """A day as its file tells it.

    Attributes:
        day: its number; attempt: how many-th time it is played, from 0.
        seed: that messages of the day are signed under.
        began_at: Unix time of its start; phases end as many seconds later as the terms say.
        members: {account in lower case: its number}.
    """

    day: int
    attempt: int
    seed: bytes
    began_at: int
    members: Mapping[str, int]


class ContestBoard:
    """The files of one contest."""

    def __init__(self, store: BlobStore, task: bytes) -> None:
        """Of the contest `task`, in its store."""
        self.store, self._root = store, f"contest/{task.hex()}"

    # -- the contest -------------------------------------------------------------------------------------------------

    def post_task(self, chain_id: int, settlement: str, terms: Terms) -> None:
        """Tell what a stranger signs for."""
        self._post("task.json", {"chain_id": chain_id, "settlement": settlement.lower(), "terms": terms.json()})

    def task(self) -> dict[str, Any] | None:
        """What `post_task` told; None before it."""
        return self._read("task.json", _MAX_FILE)

    # -- days --------------------------------------------------------------------------------------------------------

    def post_day(self, state: ContestState, now: int) -> OpenDay:
        """Begin a day, or take up the one that an earlier process began with the same seed."""
        attempt = 0
        while (known := self.day(state.epoch, attempt)) and known.seed != state.seed:
            attempt += 1
        if known:
            return known
        accounts = [member.account.lower() for member in state.members]
        value = {"seed": to_hex(state.seed), "began_at": now, "members": accounts}
        self._post(f"{state.epoch}/{attempt}/day.json", value)
        return OpenDay(state.epoch, attempt, state.seed, now, _numbered(accounts))

    def day(self, number: int, attempt: int) -> OpenDay | None:
        """A day that has begun; None before it."""
        value = self._read(f"{number}/{attempt}/day.json", _MAX_FILE)
        if value is None:
            return None
        try:
            members = _numbered([str(account) for account in value["members"]])
            return OpenDay(number, attempt, from_hex(value["seed"]), int(value["began_at"]), members)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self._name(number, attempt, 'day.json')} does not read as a day: {error}") from None

    def last_attempt(self, number: int) -> OpenDay | None:
        """A day as it was begun last; None before it was."""
        found, attempt = None, 0
        while day := self.day(number, attempt):
            found, attempt = day, attempt + 1
        return found

    def latest_day(self, first: int) -> OpenDay | None:
        """The last day from day `first` on that has begun, in its last attempt; None before it."""
        found, number = None, first
        while day := self.last_attempt(number):
            found, number = day, number + 1
        return found

    # -- messages ----------------------------------------------------------------------------------------------------

    def post_message(self, day: OpenDay, kind: ContestKind, account: str, signed: SignedMessage) -> None:
        """Hand in a message.

        Raises:
            StoreError: another one of this kind is there.
        """
        value = {"data": to_hex(signed.data), "signature": to_hex(signed.signature)}
        self._post(f"{day.day}/{day.attempt}/{kind}/{account.lower()}.json", value)

    def message(self, day: OpenDay, kind: ContestKind, account: str) -> SignedMessage | None:
        """What was handed in for an account; None if nothing was.

        Raises:
            ValueError: it is no signed message.
            StoreError: the store cannot be read.
        """
        value = self._read(f"{day.day}/{day.attempt}/{kind}/{account.lower()}.json", _MAX_MESSAGE)
        return None if value is None else _signed(value)

    def post_lists(self, day: OpenDay, lists: Iterable[SignedMessage]) -> None:
        """Tell which commitments the committee holds."""
        values = [{"data": to_hex(one.data), "signature": to_hex(one.signature)} for one in lists]
        self._post(f"{day.day}/{day.attempt}/lists.json", {"lists": values}, stands=True)

    def lists(self, day: OpenDay) -> list[SignedMessage] | None:
        """The committee's lists; None before they are there.

        Raises:
            ValueError: it is none.
        """
        value = self._read(f"{day.day}/{day.attempt}/lists.json", _MAX_FILE)
        if value is None:
            return None
        if not isinstance(value.get("lists"), list):
            raise ValueError("no lists of commitments")
        return [_signed(one) for one in value["lists"]]

    # -- states of submissions -----------------------------------------------------------------------------------------

    def post_statuses(self, day: OpenDay, phase: str, statuses: Mapping[int, Status]) -> None:
        """Tell the states after a phase."""
        value = {str(number): [one.state, one.phase, one.reason, one.due] for number, one in sorted(statuses.items())}
        self._post(f"{day.day}/{day.attempt}/status/{phase}.json", {"submissions": value}, stands=True)

    def statuses(self, day: OpenDay, phases: Iterable[str]) -> tuple[str, dict[int, Status]] | None:
        """The last of these phases that is over, and the states after it; None before the first is.

        Raises:
            StoreError: they do not read.
        """
        found = None
        for phase in phases:
            value = self._read(f"{day.day}/{day.attempt}/status/{phase}.json", _MAX_FILE)
            if value is None:
                break
            try:
                found = phase, {int(number): Status(*row) for number, row in value["submissions"].items()}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                name = self._name(day.day, day.attempt, f"status/{phase}.json")
                raise StoreError(f"{name} does not read as states of submissions: {error}") from None
        return found

    # -- files -------------------------------------------------------------------------------------------------------

    def _name(self, *parts: object) -> str:
        return "/".join(map(str, (self._root, *parts)))

    def _post(self, name: str, value: Mapping[str, Any], stands: bool = False) -> None:
        """Write a file once; the same again is no matter. Something else is refused, unless what is there stands."""
        data = canonical_json(dict(value))

        def written() -> bool:
            try:
                with Batch() as batch:
                    self.store.create_named(self._name(name), data, batch)
            except SegmentTakenError:  # for good: not to be tried again
                return stands or self.store.read_named(self._name(name), _MAX_FILE) == data
            return True

        if not retried(written, StoreUnavailableError):
            raise StoreError(f"{self._name(name)} is in the store already, and says something else")

    def _read(self, name: str, max_bytes: int) -> dict[str, Any] | None:
        try:
            data = retried(partial(self.store.read_named, self._name(name), max_bytes), StoreUnavailableError)
            value = parse_json(data.decode(), _MAX_DEPTH)
        except BlobMissingError:
            return None
        except (BlobTooLargeError, ValueError) as error:
            raise StoreError(f"{self._name(name)} does not read: {error}") from None
        if not isinstance(value, dict):
            raise StoreError(f"{self._name(name)} does not read: it is no JSON object")
        return value


def _numbered(accounts: list[str]) -> dict[str, int]:
    return {account: number for number, account in enumerate(accounts)}


def _bytes(text: object) -> bytes:
    return from_hex(text, (len(text) - 2) // 2 if isinstance(text, str) else 0)


def _signed(value: Any) -> SignedMessage:
    try:
        return SignedMessage(_bytes(value["data"]), from_hex(value["signature"], 65))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no signed message: {error}") from None
