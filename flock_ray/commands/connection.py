"""A command's connection to the contracts: reads for everybody, and sends for an account."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path

from flock_ray.chain.calls import Call, approve
from flock_ray.chain.challenges import ChallengeIndex
from flock_ray.chain.eip712 import Domain
from flock_ray.chain.evidence import Evidence
from flock_ray.chain.holdings import Holdings
from flock_ray.chain.keys import Signer, load_signer
from flock_ray.chain.reader import PLACES
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.sender import Bill, Sender
from flock_ray.chain.values import NOBODY, Addresses, TxReceipt
from flock_ray.chain.words import format_tokens
from flock_ray.commands.output import Output
from flock_ray.commands.place import Place, place_of, read_contracts
from flock_ray.commands.run_files import RunFiles
from flock_ray.errors import ChainError, ChainUnreachableError, FundsError

TIMEOUT = 300.0  # seconds until a transaction must be mined


class Connection:
    """The contracts, as a command that was parsed names them.

    Attributes:
        node: the chain.
        reader: of the contracts.
        holdings: of the vault.
        output: where the command tells what it found or did.
        dry_run: whether nothing may be sent, or written.
    """

    def __init__(self, asked: Namespace, node: RpcNode, place: Place, run: RunFiles | None, task: bytes | None) -> None:
        """Look at the contracts of a place.

        Args:
            asked: the command line.
            node: the chain.
            place: which contracts.
            run: the folder of a run, if the command names one.
            task: id of a task, if the command names one.
        """
        self._signer = load_signer(asked.key, asked.keystore) if "key" in asked else None
        self.dry_run = bool("dry_run" in asked and asked.dry_run)
        self._run, self._task = run, task
        self.node = node
        self.reader = read_contracts(node, place, self._signer.address if self._signer else NOBODY)
        self._first = asked.from_block if asked.from_block is not None else place.first_block
        self.holdings = Holdings(node, self.reader, self._first)
        self.output = Output(asked.json)

    @property
    def at(self) -> Addresses:
        """Where the contracts are."""
        return self.reader.addresses

    @property
    def signer(self) -> Signer:
        """The account that sends."""
        assert self._signer is not None
        return self._signer

    @property
    def account(self) -> str:
        """Its address."""
        return self.signer.address

    @property
    def run(self) -> RunFiles:
        """The run's folder."""
        assert self._run is not None
        return self._run

    @property
    def task(self) -> bytes:
        """Id of the task."""
        if self._task is not None:
            return self._task
        return self.run.task

    @cached_property
    def domain(self) -> Domain:
        """Where members' signatures are valid."""
        return Domain(self.node.chain_id, self.at.settlement, self.at.distributor)

    @cached_property
    def evidence(self) -> Evidence:
        """Evidence about the task."""
        return Evidence(self.reader, self.domain, self.task)

    @cached_property
    def challenges(self) -> ChallengeIndex:
        """The task's open challenges, none of which is older than the settlement of its first signed epoch."""
        first = next(self._run.receipts(), None) if self._run else None
        mined = self.node.receipt(first.settlement) if first and first.settlement else None
        first_block = max(self._first, mined[0].block if mined else 0)
        return ChallengeIndex(self.node, self.reader, self.task, first_block)

    def wallet(self, account: str) -> int:
        """Tokens of an account, wei."""
        return self.reader.wallet_balances([account])[account]

    def with_approval(self, call: Call, amount: int) -> list[Call]:
        """A call that has a contract take tokens of the account's, after their approval where it is missing.

        Raises:
            FundsError: the account has too few.
        """
        has = self.wallet(self.account)
        if amount > has:
            raise FundsError(f"{self.account} has {format_tokens(has)} tokens, needs {format_tokens(amount)}")
        allowed = self.reader.ask("FlockToken", "allowance", self.account, call.to)
        return [call] if allowed >= amount else [approve(self.at, call.to, amount), call]

    def send(self, *calls: Call) -> list[TxReceipt]:
        """Send calls, or with `--dry-run` show what they would cost and send nothing; their receipts.

        Raises:
            ChainError: a contract would refuse one, and nothing was sent; or one was not mined in time, or is refused
                after the ones before it, and the text says how many were sent.
            FundsError: the account cannot pay for all, and nothing was sent.
        """
        sender = self._sender()
        bills = sender.price(calls)
        if self.dry_run:
            self._show(bills)
            return []
        return sender.send_in_turn(bills)

    def send_each(self, calls: Sequence[Call]) -> list[TxReceipt | ChainError]:
        """Send independent calls one by one, each tried first; for each its receipt, or why it was not sent.

        With `--dry-run` those are shown that would be sent now, and nothing is returned.

        Raises:
            ChainError: none was sent: why the first one was not. Or one was sent and not mined, or reverted.
        """
        sender, bills = self._sender(), []
        ended: list[TxReceipt | ChainError] = []
        for call in calls:
            try:
                (bill,) = sender.price([call])
            except ChainUnreachableError:
                raise
            except ChainError as error:
                ended.append(error)
                continue
            if self.dry_run:
                bills.append(bill)
                continue
            try:
                ended.append(sender.send(bill))
            except ChainError as error:
                mined = sum(isinstance(receipt, TxReceipt) for receipt in ended)
                raise type(error)(f"{error}; {mined} transactions were sent before") from None
        refused = [error for error in ended if isinstance(error, ChainError)]
        if refused and len(refused) == len(calls):
            raise refused[0]
        if self.dry_run:
            self._show(bills)
            return []
        return ended

    def _sender(self) -> Sender:
        return Sender(self.node, self.signer, TIMEOUT)

    def _show(self, bills: Sequence[Bill]) -> None:
        names = {getattr(self.at, place): name for name, place in PLACES.items()}
        self.output.bills(bills, names, self.account, self.node.chain_id, self.node.balance(self.account))


@contextmanager
def connected(asked: Namespace) -> Iterator[Connection]:
    """The contracts that a command names, for as long as it runs."""
    run, task = None, None
    if "run_dir" in asked:
        run = RunFiles(asked.run_dir)
    elif "task" in asked and isinstance(asked.task, Path):
        run = RunFiles(asked.task)
    elif "task" in asked:
        task = asked.task
        run = RunFiles(asked.run) if "run" in asked and asked.run else None
    place = place_of(asked.contracts, run)
    with closing(RpcNode(asked.rpc, place.chain_id)) as node:
        yield Connection(asked, node, place, run, task)
