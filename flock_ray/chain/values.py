"""Plain values that cross between the chain actor and the rest: terms, addresses, views and receipts.

Amounts are integer wei, hashes are 32 bytes, addresses are checksummed text, times are Unix seconds of chain time.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from enum import IntEnum
from functools import cached_property
from itertools import takewhile

from flock_ray.errors import ChainError
from flock_ray.protocol.hashing import keccak, tag, word
from flock_ray.protocol.roster import Change, Roster, change_slots, founders

TOKEN = 10**18  # wei
GWEI = 10**9  # wei
NOBODY = "0x" + "00" * 20
SINK = "0x000000000000000000000000000000000000dEaD"  # nobody has its key

DAILY_EMISSION = 1_000_000  # tokens of a day of the first period
DECAY_BPS = 5_000  # decrease of the daily emission from one period to the next
PERIOD_DAYS = 365
EPOCH_MULTIPLE = 1  # daily emissions that one epoch of a task may commit
ACTIVATION_DELAY = 0  # seconds until a settled root pays
ABSENCE_BPS = 100  # of its stake that an absent voter loses
RESPONSE_WINDOW = 3_600  # seconds in which a challenged voter may show its signature
MAX_FEE = 500 * GWEI  # most that a transaction pays, per gas
GRACE = 0  # seconds between the two calls that abandon an epoch or slash an absent voter
EVIDENCE_WINDOW = 0  # seconds after a task's end in which stakes stay locked; a run's own chain ends with the run
VAULT_EPOCH = 86_400  # seconds of an epoch of the vault
UNBONDING_EPOCHS = 7  # vault epochs that stake takes to thaw
COMMISSION_DELAY = 8  # vault epochs before a new commission counts
DELAYS_AN_EPOCH = 4  # activation delays that an epoch of the vault lasts at least (StakeVault.DELAYS_AN_EPOCH)
MIN_DELEGATION = 10**15  # smallest number of shares that a delegator holds; a share is worth a wei at first


@dataclass(frozen=True)
class ChainSpec:
    """Which chain to use and how.

    Attributes:
        backend: `eth_tester`, `anvil`, `rpc`, or `auto` (rpc if there is a url, else anvil if found, else eth_tester).
        urls: RPC endpoints of one chain, the preferred one first, `rpc` only.
        chain_id: id that the RPC must serve; 0 for any.
        keystore: folder of keystore files, `rpc` only; empty: keys from the environment.
        port: port of an embedded anvil; 0 for any free one.
        run_seed: embedded chains derive their keys from it.
        funded: addresses that an embedded chain's genesis gives gas money.
        token: address of a deployed FlockToken; empty until deployed.
        task: address of TaskRegistry.
        settlement: address of EpochSettlement.
        confirmation_timeout: seconds to wait for a receipt while the chain answers.
        max_fee: most that the relayer pays, wei a gas.
        finality: how final the settlements must be in the end: `mined`, `safe` or `finalized`.
    """

    backend: str
    urls: tuple[str, ...] = field(repr=False)
    chain_id: int
    keystore: str
    port: int
    run_seed: int
    funded: list[str] = field(repr=False)
    token: str
    task: str
    settlement: str
    confirmation_timeout: float
    max_fee: int = MAX_FEE
    finality: str = "mined"


@dataclass(frozen=True)
class Waiting:
    """What the relayer waits for.

    Attributes:
        epoch: the epoch whose settlement waits.
        reason: what is missing, in one line.
        since: seconds since 1970.
        unreachable: the chain does not answer.
    """

    epoch: int
    reason: str
    since: float
    unreachable: bool


@dataclass(frozen=True)
class Addresses:
    """Where the contracts are; all empty before they are deployed.

    Attributes:
        token: address of FlockToken.
        task: address of TaskRegistry.
        settlement: address of EpochSettlement.
        distributor: address of RewardDistributor, which the others name too.
        vault: address of StakeVault, which the others name too.
    """

    token: str = ""
    task: str = ""
    settlement: str = ""
    distributor: str = ""
    vault: str = ""


@dataclass(frozen=True)
class ChainInfo:
    """The chain in use.

    Attributes:
        backend: `eth_tester`, `anvil` or `rpc`.
        chain_id: id that signatures are bound to.
        token: address of FlockToken; empty until deployed, as are the next four.
        task: address of TaskRegistry.
        settlement: address of EpochSettlement.
        distributor: address of RewardDistributor.
        vault: address of StakeVault.
        relayer: the account that settles.
    """

    backend: str
    chain_id: int
    token: str
    task: str
    settlement: str
    distributor: str
    vault: str
    relayer: str


@dataclass(frozen=True)
class TxContext:
    """What an account must know of the chain to sign transactions without asking it.

    Attributes:
        chain_id: id of the chain.
        nonce: of the account's next transaction.
        max_fee_per_gas: wei.
        max_priority_fee_per_gas: wei, contained in the former.
        gas_balance: the account's native coin, wei.
        token_balance: the account's tokens, wei.
        token: contract addresses, empty before deployment.
        task: same.
        settlement: same.
        distributor: same.
        vault: same.
        free_stake: what a task can lock of what the account has in the vault, its own, and delegated to it where its
            pool serves the task's creator, wei.
        data_fee: of a rollup, most that a transaction of no bytes pays beside its gas, wei; 0 on other chains.
        data_fee_per_byte: the same for each of its bytes.
    """

    chain_id: int
    nonce: int
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    gas_balance: int
    token_balance: int
    token: str
    task: str
    settlement: str
    distributor: str
    vault: str
    free_stake: int = 0
    data_fee: int = 0
    data_fee_per_byte: int = 0


@dataclass(frozen=True)
class TxReceipt:
    """Outcome of a mined transaction.

    Attributes:
        hash: transaction hash.
        gas_used: gas.
        block: block number.
        block_hash: hash of that block.
        contract_address: of the contract it created, else None.
    """

    hash: bytes
    gas_used: int
    block: int
    block_hash: bytes
    contract_address: str | None = None


class EpochAbandonedError(ChainError):
    """An epoch was abandoned on the chain before its report was settled; signatures for it and later ones are void.

    Attributes:
        epoch: the epoch.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__(f"epoch {epoch} was abandoned on the chain")
        self.epoch = epoch

    def __reduce__(self) -> tuple[type[EpochAbandonedError], tuple[int]]:  # type: ignore[override]
        return type(self), (self.epoch,)


@dataclass(frozen=True)
class TaskTerms:
    """Terms of a task, fixed at its creation; the order is that of the contract's struct.

    Attributes:
        terms_hash: hash of the configuration that the members agree on.
        model_hash: hash of the global adapter at the start.
        target_set_hash: hash of the target evaluation set that is opened at the end, zero for none.
        pool: rewards that the creator escrows, wei.
        min_stake: stake of one slot, wei.
        max_slots: most slots of one member.
        num_voters: V.
        num_proposers: P.
        min_members: members without which the task does not start.
        max_members: members with which the task is full.
        num_epochs: epochs until it closes.
        max_unsettled: epochs that may be unsettled at once.
        max_skips: abandoned epochs in a row that close the task.
        end_share_bps: part of the pool that only the last epoch may commit, in basis points.
        epoch_deadline: seconds.
        join_window: seconds from the creation in which members may join.
        fixed_genesis: the first seed is the creator's, not the hash of a later block.
    """

    terms_hash: bytes
    model_hash: bytes
    target_set_hash: bytes
    pool: int
    min_stake: int
    max_slots: int
    num_voters: int
    num_proposers: int
    min_members: int
    max_members: int
    num_epochs: int
    max_unsettled: int
    max_skips: int
    end_share_bps: int
    epoch_deadline: int
    join_window: int
    fixed_genesis: bool

    def digest(self, creator: str, node_stake: int = 0) -> bytes:
        """keccak(abi.encode(creator, terms)): what a member expects of the task that it joins (`TaskTerms.digest`).

        Args:
            creator: address.
            node_stake: of a contest, least stake of a node, wei: hashed with the former (`TaskTerms.contestDigest`).
        """
        words = (item if isinstance(item, bytes) else word(int(item)) for item in astuple(self))
        digest = keccak(word(int(creator, 16)) + b"".join(words))
        return keccak(digest + word(node_stake)) if node_stake else digest

    def task_id(self, creator: str, seed: bytes, node_stake: int = 0) -> bytes:
        """Id of the task that `creator` makes of these terms and this seed; nobody else can take it."""
        return keccak(tag("flock_ray/task/2") + self.digest(creator, node_stake) + seed)


@dataclass(frozen=True)
class RewardRoots:
    """Merkle roots of a task's cumulative rewards.

    Attributes:
        paying: the root that claims are paid from now.
        pending: {root: time from which claims are paid from it}.
    """

    paying: bytes
    pending: dict[bytes, int]


class TaskStatus(IntEnum):
    """Life of a task."""

    NONE = 0
    JOINING = 1
    STARTING = 2
    RUNNING = 3
    CLOSED = 4


@dataclass(frozen=True)
class MemberView:
    """A member or a node as the contract holds it; the order is that of the contract's struct.

    Attributes:
        account: address.
        stake: the part of it that the task still locks, wei.
        delegated: the part of that which is its delegators', wei.
        slots: fixed at joining; a node has none.
        chain_tip: tip of the member's hash chain; zero for a node.
        leaving: whether it asked to leave.
        left_at: time at which it left, 0 while it is in.
    """

    account: str
    stake: int
    delegated: int
    slots: int
    chain_tip: bytes
    leaving: bool
    left_at: int


@dataclass(frozen=True)
class Entry:
    """A node that entered a contest.

    Attributes:
        account: address.
        index: its number among the task's members.
        stake: that it entered with, wei.
    """

    account: str
    index: int
    stake: int


@dataclass(frozen=True)
class TaskView:
    """State of a task.

    Attributes:
        terms: as created.
        creator: address.
        status: see TaskStatus.
        seed: of the next epoch; zero before the start.
        last_settled: number of the last settled (or abandoned) epoch, 0 before the first.
        epoch_start: time.
        skips: epochs abandoned in a row.
        pool_left: rewards not yet committed, wei.
        committed: rewards that the roots have promised so far, wei.
        claimed: rewards paid so far, wei.
        escrow: own stake that slashes took, wei.
        rewards_root: Merkle root of cumulative rewards, from which claims are paid.
        last_report: hash of the last settled report.
        num_slots: slots of the epoch that was settled last.
        members: in registration order, those that left included, and the nodes among them.
        changes: of the members since the start, or since one left before it, in their order.
        num_applied: how many of these changes the slots include.
        join_deadline: time at which joining ends.
        seed_block: while the task is starting, number of the block whose hash makes the first seed.
        node_stake: what a node enters with at least, wei; 0: the task takes none.
    """

    terms: TaskTerms
    creator: str
    status: TaskStatus
    seed: bytes
    last_settled: int
    epoch_start: int
    skips: int
    pool_left: int
    committed: int
    claimed: int
    escrow: int
    rewards_root: bytes
    last_report: bytes
    num_slots: int
    members: tuple[MemberView, ...]
    changes: tuple[Change, ...]
    num_applied: int
    join_deadline: int
    seed_block: int
    node_stake: int = 0

    @property
    def digest(self) -> bytes:
        """Of creator, terms and least stake of a node, as a member expects it before it joins."""
        return self.terms.digest(self.creator, self.node_stake)

    @property
    def nodes(self) -> dict[int, MemberView]:
        """{index: node} of those that entered, those that left included."""
        return {index: member for index, member in enumerate(self.members) if not member.slots}

    @property
    def changes_before_start(self) -> tuple[Change, ...]:
        """Who left before the start, and who joined after the first that left: changes that the first epoch has."""
        return tuple(takewhile(lambda change: not change.epoch, self.changes))

    @property
    def first_members(self) -> tuple[MemberView, ...]:
        """Members that joined before the start, those that left again included."""
        later = sum(bool(change.epoch) and not change.leaves for change in self.changes)
        return self.members[: len(self.members) - later - len(self.nodes)]  # nodes enter after the start

    @cached_property
    def roster(self) -> Roster:
        """The slots of the last settled epoch, and the pending changes."""
        joined_later = sum(not change.leaves for change in self.changes)
        first = len(self.members) - joined_later - len(self.nodes)
        slots = founders(member.slots for member in self.members[:first])
        for change in self.changes[: self.num_applied]:
            slots = change_slots(slots, change)
        return Roster(slots, self.changes[self.num_applied :])

    def slot_owners(self, epoch: int) -> tuple[int, ...]:
        """Member of each slot of a later epoch, if every epoch until then is settled; see `Roster.at`."""
        return self.roster.at(self.last_settled, epoch).owners
