"""`flock-ray arena submit` and `flock-ray arena status`: a stranger's adapter in a contest that others hold."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flock_ray.chain import calls
from flock_ray.chain.eip712 import message_digest
from flock_ray.chain.keys import recover
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.values import TaskStatus, TaskView
from flock_ray.chain.words import format_tokens, utc
from flock_ray.cluster.contest_board import ContestBoard, OpenDay
from flock_ray.cluster.interrupts import check_interrupted
from flock_ray.cluster.member import salt_of
from flock_ray.cluster.slashing_protection import SlashingProtection
from flock_ray.commands.arguments import book_or_address, task
from flock_ray.commands.connection import Connection
from flock_ray.commands.place import Place, place_of
from flock_ray.commands.settings import StatusSettings, SubmitSettings, read_settings
from flock_ray.errors import AdapterError, ChainError, ConfigError, ProtocolError, RunDirectoryError, StoreError
from flock_ray.protocol.contest_entries import Status
from flock_ray.protocol.contest_message import ContestKind, ContestMessage
from flock_ray.protocol.contest_state import ContestTerms, schedule_of
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.message import AcknowledgementBody, SignedMessage
from flock_ray.protocol.roles import roles
from flock_ray.protocol.state import Scope
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore
from flock_ray.store.files import read_json
from flock_ray.telemetry.table import Console
from flock_ray.verify.contest_genesis import read_contest_terms

LOOK = 0.5  # seconds between two looks at the store


@dataclass(frozen=True)
class Contest:
    """A contest as its chain and its store tell it.

    Attributes:
        chain: its contracts, and the account that submits.
        board: its files.
        scope: what commitments are bound to.
        terms: whose hash the contract holds.
        view: the task on the chain, as it was at first.
    """

    chain: Connection
    board: ContestBoard
    scope: Scope
    terms: ContestTerms
    view: TaskView

    @property
    def account(self) -> str:
        """Of the node that submits."""
        return self.chain.account

    def schedule(self, day: OpenDay) -> dict[str, int]:
        """Unix time at which each phase of a day ends."""
        return {phase: day.began_at + end for phase, end in schedule_of(self.terms, day.day).items()}


@contextmanager
def _contest(how: SubmitSettings, asked: Namespace) -> Iterator[Contest]:
    """Connect, and hold what the store says against the chain.

    Raises:
        ConfigError, ChainError, StoreError: something is not there, or is another one.
    """
    number = _checked(task, "task", how.task)
    if isinstance(number, Path):
        raise ConfigError(f"task is {how.task!r}; it must be the id of the contest: 64 hex digits")
    contracts = _checked(book_or_address, "contracts", how.contracts)
    place = Place(0, contracts) if isinstance(contracts, str) else place_of(contracts, None)
    words = Namespace(key=how.key, keystore=how.keystore, dry_run=asked.dry_run, json=False, from_block=None)
    with closing(RpcNode(how.rpc, place.chain_id)) as node:
        chain = Connection(words, node, place, None, number)
        board = ContestBoard(BlobStore(how.store), number)
        view = chain.reader.task_view(number)
        posted = board.task()
        if posted is None:
            raise StoreError(
                f"{how.store} has nothing of contest 0x{number.hex()}: it is another store, or the contest is not open"
                " to others (contest.open=true)"
            )
        terms = _terms(posted, how.store)
        if view.status is TaskStatus.NONE:
            raise ChainError(f"the contracts at {how.contracts} have no task 0x{number.hex()}")
        if view.terms.terms_hash != terms.digest() or view.node_stake != terms.node_stake:
            raise ChainError(f"the terms in {how.store} are not those of task 0x{number.hex()} on the chain")
        scope = Scope(chain.domain.chain_id, bytes.fromhex(chain.domain.contract[2:]), number)
        yield Contest(chain, board, scope, terms, view)


def _terms(posted: Mapping[str, Any], store: str) -> ContestTerms:
    try:
        return read_contest_terms(posted["terms"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"the contest's terms in {store} do not read: {error}") from None


def _checked(read: Callable[[str], Any], name: str, text: str) -> Any:
    try:
        return read(text)
    except ArgumentTypeError as error:
        raise ConfigError(f"{name} is {text!r}: {error}") from None


def submit(asked: Namespace) -> int | None:
    """Enter if need be, commit, open the commitment once the committee lists it, and follow the submission."""
    how, console = read_settings(SubmitSettings, asked.settings), Console()
    with _contest(how, asked) as contest:
        payload = _payload(how.adapter, contest)
        console.line(f"{how.adapter} is taken: payload {to_hex(sha256(payload))}, {len(payload):,} bytes")
        if not _enter(contest, console):
            return None
        submission = _Submission(contest, payload, Path(how.records).expanduser(), console.line)
        day = submission.commit()
        submission.reveal(day)
        return submission.follow(day) if how.wait == "true" else None


def _payload(folder: Path, contest: Contest) -> bytes:
    """The canonical file of an adapter, as the contest's gate takes it.

    Raises:
        AdapterError: it would be refused.
    """
    from flock_ray.lora.foreign import read_foreign  # slow: torch
    from flock_ray.lora.gate import header_of, inspect
    from flock_ray.lora.serialization import MAX_ADAPTER_BYTES, canonical_bytes
    from flock_ray.protocol.contest_message import Finding

    terms = contest.terms
    shapes = header_of(contest.board.store.get(terms.start_adapter, MAX_ADAPTER_BYTES))
    if shapes is None:
        raise StoreError("the adapter that the contest starts from does not read as one")
    most = terms.mechanism_parameters["max_rank"]
    payload = canonical_bytes(read_foreign(folder, shapes, most))
    finding, _ = inspect(payload, shapes, most)
    if finding is not Finding.VALID:
        raise AdapterError(f"{folder}: the contest's gate would refuse it: {finding}")
    return payload


def _enter(contest: Contest, console: Console) -> bool:
    """Stake and enter, unless the account is in already; whether it is in then."""
    chain, view, amount = contest.chain, contest.view, contest.terms.node_stake
    known = {member.account: member for member in view.members}.get(contest.account)
    if known and known.slots:
        raise ChainError(f"{contest.account} is a validator of this contest; an account has one role")
    if known and known.left_at:
        raise ChainError(f"{contest.account} has left this contest, and cannot enter it again")
    if known:
        return True
    if view.status is not TaskStatus.RUNNING:
        raise ChainError(f"contest 0x{chain.task.hex()} is {view.status.name.lower()}; nodes enter while it runs")
    missing = amount - chain.holdings.pool(contest.account).own_free
    if missing > 0 and not chain.send(*chain.with_approval(calls.stake(chain.at, missing), missing)):
        console.line(f"Then it would enter with {format_tokens(amount)} tokens")
        return False
    sent = chain.send(calls.enter(chain.at, chain.task, amount, view.digest))
    if sent:
        console.line(f"Entered with {format_tokens(amount)} tokens, locked until the contest is over")
    return bool(sent)


class _Submission:
    """One adapter on its way through a day."""

    def __init__(self, contest: Contest, payload: bytes, records: Path, tell: Callable[[str], None]) -> None:
        self._contest, self._payload, self._tell = contest, payload, tell
        self._protection = SlashingProtection(records / contest.account.lower())
        self._said = ""

    def commit(self) -> OpenDay:
        """Wait for a day whose window of commitments is open to the account, and commit.

        A day that this very adapter was committed on is taken up, as long as it can be opened.

        Raises:
            ChainError: there is no such day any more.
            ProtocolError: another adapter was committed on that day.
        """
        contest, first = self._contest, 1
        while True:
            check_interrupted()
            day = contest.board.latest_day(first)
            if day:
                first, ends, now = day.day, contest.schedule(day), time.time()
                message = self._commitment(day) if contest.account.lower() in day.members else None
                handed_in = message and contest.board.message(day, ContestKind.COMMITMENT, contest.account)
                if message and handed_in and handed_in.data != message.data:
                    raise ProtocolError(
                        f"{contest.account} committed to another adapter on day {day.day}; a second commitment would"
                        " cost it its stake"
                    )
                if message and handed_in and now < ends["reveal"]:
                    self._note(day, message)
                    return day
                if message and not handed_in and now < ends["commit"]:
                    self._hand_in(day, message)
                    self._tell(f"Committed on day {day.day}; commitments are taken until {utc(ends['commit'])}")
                    return day
                self._wait_told(day, message is None, ends["commit"])
                if day.day == contest.terms.num_epochs and (message is None or now >= ends["commit"]):
                    raise ChainError(f"day {day.day} was the last that submissions could be made on")
            else:
                self._once("The contest has not begun its first day; waiting for it")
            time.sleep(LOOK)

    def _wait_told(self, day: OpenDay, early: bool, ended: int) -> None:
        why = "the account takes part from a later day on" if early else f"commitments ended at {utc(ended)}"
        self._once(f"Day {day.day} runs: {why}; waiting for the next one")

    def reveal(self, day: OpenDay) -> None:
        """Open the commitment when a quorum of the day's committee has listed it: nobody can copy it from then on.

        Raises:
            ProtocolError: it is not listed, or the window is over.
        """
        contest, ends = self._contest, self._contest.schedule(day)
        digest = self._commitment(day).digest
        while (lists := contest.board.lists(day)) is None:
            if time.time() >= ends["reveal"]:
                raise ProtocolError(f"day {day.day}: no committee's lists by {utc(ends['reveal'])}; nothing was opened")
            check_interrupted()
            time.sleep(LOOK)
        seats, quorum = self._listing(day, digest, lists)
        if seats < quorum:
            raise ProtocolError(
                f"day {day.day}: {seats} of the committee's seats list the commitment, {quorum} are needed; the adapter"
                " was not opened"
            )
        if time.time() >= ends["reveal"]:
            raise ProtocolError(f"day {day.day}: payloads were taken until {utc(ends['reveal'])}; this is too late")
        contest.board.store.put(self._payload)
        body = {
            "base_model": to_hex(contest.terms.base_model),
            "payload": to_hex(sha256(self._payload)),
            "salt": to_hex(self._salt(day)),
        }
        self._hand_in(day, self._message(day, ContestKind.MANIFEST, body))
        self._tell(f"Opened on day {day.day}: {seats} of the committee's seats had listed it")

    def follow(self, day: OpenDay) -> int | None:
        """Tell each state of the submission until its last one of the day; 0 if it was not refused.

        Raises:
            ProtocolError: it was refused.
        """
        contest, number = self._contest, day.members[self._contest.account.lower()]
        ends = contest.schedule(day)
        while True:
            check_interrupted()
            found = contest.board.statuses(day, ends)
            status = found[1].get(number) if found else None
            if status:
                self._once(status_line(day, status))
                if status.due is None:
                    if status.state == "refused":
                        raise ProtocolError(f"day {day.day}: the submission was {status.text()}")
                    return None
            time.sleep(LOOK)

    # -- messages ----------------------------------------------------------------------------------------------------

    def _salt(self, day: OpenDay) -> bytes:
        return salt_of(self._contest.chain.signer, self._contest.scope.task, day.day, day.seed, "payload")

    def _commitment(self, day: OpenDay) -> ContestMessage:
        scope, number = self._contest.scope, day.members[self._contest.account.lower()]
        commitment = scope.payload_commitment(day.day, number, sha256(self._payload), self._salt(day))
        return self._message(day, ContestKind.COMMITMENT, {"commitment": to_hex(commitment)})

    def _message(self, day: OpenDay, kind: ContestKind, body: dict[str, str]) -> ContestMessage:
        number = day.members[self._contest.account.lower()]
        return ContestMessage(kind, self._contest.scope.task, day.day, number, body)

    def _note(self, day: OpenDay, message: ContestMessage) -> None:
        """Write down what is about to be signed.

        Raises:
            ProtocolError: something else was signed in its place.
        """
        with Batch() as batch:
            self._protection.record(message.task, day.day, day.seed, message.kind, message.digest, batch)

    def _hand_in(self, day: OpenDay, message: ContestMessage) -> None:
        self._note(day, message)
        chain = self._contest.chain
        digest = message_digest(chain.domain, message.task, day.day, day.seed, message.kind, message.digest)
        signed = SignedMessage(message.data, chain.signer.sign_digest(digest))
        self._contest.board.post_message(day, message.kind, chain.account, signed)

    def _listing(self, day: OpenDay, commitment: bytes, lists: Sequence[SignedMessage]) -> tuple[int, int]:
        """(seats of the day's committee whose signed lists have a commitment, seats that are a quorum)."""
        contest, terms = self._contest, self._contest.terms
        view = contest.chain.reader.task_view(contest.scope.task)
        committee = roles(
            day.seed, contest.scope.task, day.day, view.slot_owners(day.day), terms.num_voters, terms.num_proposers
        )
        listing = set()
        for signed in lists:
            try:
                message = ContestMessage.parse(signed.data)
            except ValueError:
                continue
            place = message.task, message.epoch, message.kind
            if place != (contest.scope.task, day.day, ContestKind.ACKNOWLEDGEMENT):
                continue
            digest = message_digest(contest.chain.domain, message.task, day.day, day.seed, message.kind, message.digest)
            voter, listed = message.member, message.read(AcknowledgementBody).commitments
            if voter not in committee.voter_seats or to_hex(commitment) not in listed:
                continue
            if recover(digest, signed.signature) == view.members[voter].account:
                listing.add(voter)
        return sum(committee.voter_seats[voter] for voter in listing), committee.quorum

    def _once(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._tell(line)


def status_line(day: OpenDay, status: Status) -> str:
    """A submission's state, and until when the next one comes."""
    ahead = "" if status.due is None else f"; the next state by {utc(day.began_at + status.due)}"
    return f"Day {day.day}: {status.text()}{ahead}"


def status(asked: Namespace) -> None:
    """Show the states of a contest's submissions: of the running day, or of one that is over."""
    how = read_settings(StatusSettings, asked.settings)
    number = _checked(task, "contest", how.contest)
    rows = _from_board(how, number) if isinstance(number, bytes) else _from_records(how, number)
    if how.account:
        rows = [row for row in rows if str(row["account"]).lower() == how.account.lower()]
        if not rows:
            raise ConfigError(f"{how.account} has no submission on the day that is asked for")
    from flock_ray.commands.output import Output

    Output(asked.json).facts({"submissions": rows})


def _from_board(how: StatusSettings, number: bytes) -> list[dict[str, object]]:
    if not how.store:
        raise ConfigError("store=… is missing: where the contest keeps its files")
    board = ContestBoard(BlobStore(how.store), number)
    posted = board.task()
    if posted is None:
        raise StoreError(f"{how.store} has nothing of contest 0x{number.hex()}")
    terms = _terms(posted, how.store)
    day = board.last_attempt(how.day) if how.day else board.latest_day(1)
    if day is None:
        raise ConfigError(f"day {how.day or 1} of the contest has not begun")
    found = board.statuses(day, schedule_of(terms, day.day))
    accounts = {member: account for account, member in day.members.items()}
    return [
        {
            "day": day.day, "node": member, "account": accounts[member], "state": one.text(),
            "next_state_at": 0 if one.due is None else day.began_at + one.due,
        }
        for member, one in (found[1] if found else {}).items()
    ]  # fmt: skip


def _from_records(how: StatusSettings, folder: Path) -> list[dict[str, object]]:
    """The last states of a day's submissions in the folder of a run."""
    days = sorted(int(path.stem) for path in (folder / "records").glob("*.json") if path.stem.isdigit())
    if not days or (how.day and how.day not in days):
        raise RunDirectoryError(f"{folder} has no record of day {how.day or 1} of a contest")
    day = how.day or days[-1]
    record, named = read_json(folder / "records" / f"{day}.json"), read_json(folder / "summary.json")
    accounts = {one["member"]: one["account"] for one in named["members"]}
    try:
        last = [(one["member"], *one["steps"][-1]) for one in record["submissions"]]
        return [
            {
                "day": day, "node": node, "account": accounts[node],
                "state": Status(state, phase, reason, None).text(), "next_state_at": 0,
            }
            for node, state, phase, reason in last
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunDirectoryError(f"records/{day}.json of {folder} is no contest's ({type(error).__name__})") from None
