"""The sole owner of a chain and of the relayer's key: what the chain actor wraps.

It relays what members signed and settles what committees signed; its own key can forge neither. Calls are idempotent:
a transaction is identified by its hash, a settlement by the hash of its report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from flock_ray.chain.anvil import find_anvil
from flock_ray.chain.delivery import deliver
from flock_ray.chain.embedded import ETH_TESTER_CHAIN_ID, AnvilNode
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.journal import read_genesis
from flock_ray.chain.keys import load_signer, run_signer
from flock_ray.chain.node import ChainNode
from flock_ray.chain.outbox import Outbox, State
from flock_ray.chain.reader import ChainReader
from flock_ray.chain.rollup import data_fee_line
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.seed_block import await_seed
from flock_ray.chain.settler import Settler
from flock_ray.chain.values import NOBODY, Addresses, ChainInfo, ChainSpec, TaskView, TxContext, TxReceipt, Waiting
from flock_ray.errors import ConfigError, WrongChainError

__all__ = ["Addresses", "ChainClient", "ChainInfo", "ChainSpec", "TaskView", "TxContext", "TxReceipt"]


_TIMEOUT_OPTION = "chain.confirmation_timeout"


class ChainClient(ChainReader):
    """A chain, its contracts and the relayer.

    Make one call at a time; one call of `settle` or `confirm`, which may take long, may run beside it.
    """

    def __init__(self, spec: ChainSpec, run_dir: str) -> None:
        """Start the embedded chain, or rebuild it from `<run_dir>/chain`, or connect to the RPC.

        Raises:
            ChainUnreachableError: no answer, no anvil, or its port is taken.
            WrongChainError: another chain id than `spec.chain_id`.
            KeyMissingError: no key for the relayer (rpc).
            RunDirectoryError: the folder holds another chain.
        """
        folder = Path(run_dir).absolute() / "chain"
        backend = _choose(spec, folder)
        self._relayer = (
            load_signer("relayer", spec.keystore) if backend == "rpc" else run_signer(spec.run_seed, "relayer")
        )
        self._timeout = spec.confirmation_timeout
        funded = [*spec.funded, self._relayer.address]
        super().__init__(_open(spec, backend, folder, funded), self._relayer.address)
        try:
            if spec.token or spec.task or spec.settlement:
                self.set_contracts(Addresses(spec.token, spec.task, spec.settlement))
            outbox = Outbox(folder / "outbox.sqlite")
            self._settler = Settler(self._node, self._relayer, outbox, self._timeout, spec.max_fee)
            self._finality = State(spec.finality)
        except BaseException:
            self._node.close()
            raise

    @property
    def node(self) -> ChainNode:
        """The chain itself."""
        return self._node

    def info(self) -> ChainInfo:
        """The chain in use."""
        return ChainInfo(
            self._node.backend, self._node.chain_id, **asdict(self._addresses), relayer=self._relayer.address
        )

    def context(self, address: str, creator: str = NOBODY) -> TxContext:
        """What `address` must know to sign its next transactions; `creator` of the task that it joins, if it does."""
        return self.contexts([address], creator)[address]

    def contexts(self, addresses: Sequence[str], creator: str = NOBODY) -> dict[str, TxContext]:
        """What each address must know; see `context`."""
        if not addresses:
            return {}
        max_fee, tip = self._node.fees()
        data_fee, data_fee_per_byte = data_fee_line(self._node, addresses[0])
        tokens = free = [0] * len(addresses)
        if self._addresses.token:
            tokens = list(self.wallet_balances(addresses).values())
            free = self._read_each("StakeVault", "lockable", [(address, creator) for address in addresses])
        nonces, coins = self._node.nonces(addresses), self._node.balances(addresses)
        return {
            address: TxContext(
                chain_id=self._node.chain_id,
                nonce=nonces[number],
                max_fee_per_gas=max_fee,
                max_priority_fee_per_gas=tip,
                gas_balance=coins[number],
                token_balance=tokens[number],
                free_stake=free[number],
                data_fee=data_fee,
                data_fee_per_byte=data_fee_per_byte,
                **asdict(self._addresses),
            )
            for number, address in enumerate(addresses)
        }

    def broadcast(
        self, raws: Sequence[bytes], epoch: int, names: Sequence[str] = (), one_by_one: bool = False
    ) -> list[TxReceipt]:
        """Send signed transactions in order and wait for their receipts; one that is mined already keeps its receipt.

        Args:
            raws: signed transactions.
            epoch: the current epoch, 0 before the first; the clock of an embedded chain.
            names: see `delivery.deliver`, as the next.
            one_by_one: whether an existing chain must mine them in this order.

        Raises:
            FundsError: an account cannot pay.
            WrongChainError: signed for another chain.
            ChainError: one reverted (the text names its custom error), was refused, or was not mined in time.
        """
        return deliver(self._node, raws, epoch, self._timeout, _TIMEOUT_OPTION, names, one_by_one)

    def await_seed(self, task: bytes) -> None:
        """Wait until a starting task can be opened; see `seed_block.await_seed`."""
        await_seed(self._node, self, task, self._timeout, _TIMEOUT_OPTION)

    def settle(self, report: Report, seats: int, signatures: bytes, work: tuple[int, int] = (0, 0)) -> TxReceipt:
        """Settle an epoch, or return the receipt if this report settled it already; see `Settler.settle`."""
        at = self._addresses.settlement
        return self._settler.settle(at, report, seats, signatures, work)

    def confirm(self) -> dict[int, TxReceipt]:
        """Wait until all settlements are as final as `spec.finality`; see `Settler.confirm`."""
        return self._settler.confirm(self._finality)

    def waiting(self) -> Waiting | None:
        """What a settlement currently waits for, None if it does not. Makes no request to the chain."""
        return self._settler.waiting

    def close(self) -> None:
        """End an embedded chain and close the files; twice is harmless."""
        self._node.close()
        self._settler.close()


def _choose(spec: ChainSpec, folder: Path) -> str:
    """The backend that `auto` stands for; an existing chain stays on the backend that it began on."""
    if spec.backend != "auto":
        return spec.backend
    if spec.urls:
        return "rpc"
    stored = read_genesis(folder)
    return stored.backend if stored else "anvil" if find_anvil() else "eth_tester"


def _open(spec: ChainSpec, backend: str, folder: Path, funded: list[str]) -> ChainNode:
    if backend == "rpc":
        return RpcNode(spec.urls, spec.chain_id)
    if backend == "anvil":
        return AnvilNode(folder, funded, spec.chain_id, spec.port)
    if backend != "eth_tester":
        raise ConfigError(f"chain.backend {backend} is no chain: choose eth_tester, anvil, rpc or auto")
    if spec.chain_id not in (0, ETH_TESTER_CHAIN_ID):
        raise WrongChainError(f"eth_tester serves chain id {ETH_TESTER_CHAIN_ID}, chain.chain_id is {spec.chain_id}")
    from flock_ray.chain.evm import EthTesterNode  # an EVM that only this backend needs

    return EthTesterNode(folder, funded)
