"""Calls of the deployed contracts by the holders of stake, and by anybody: what is called, with what, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from flock_ray.chain.abi import contract
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.values import Addresses
from flock_ray.chain.words import format_tokens, percent

_STAKE_GAS = 150_000  # measured: 113,000
_DELEGATE_GAS = 230_000  # measured: 181,000
_UNITS: dict[str, Callable[[Any], str]] = {  # of arguments, by their names in the contracts
    "amount": lambda wei: f"{format_tokens(wei)} tokens",
    "value": lambda wei: f"{format_tokens(wei)} tokens",
    "cumulative": lambda wei: f"{format_tokens(wei)} tokens",
    "rewardsTotal": lambda wei: f"{format_tokens(wei)} tokens",
    "shares": str,
    "commission_": percent,
    "report": lambda report: f"that of epoch {report[1]}",
}


@dataclass(frozen=True)
class Call:
    """One call of a contract, or its deployment.

    Attributes:
        contract: its Solidity name.
        to: its address; empty for a deployment.
        function: of the contract; empty for a deployment.
        args: of the function, or of the constructor.
        gas: limit where it cannot be estimated, because an approval before it is not mined yet; 0 for none.
    """

    contract: str
    to: str
    function: str
    args: tuple[Any, ...]
    gas: int = 0

    @property
    def data(self) -> bytes:
        """The call as the contract takes it."""
        compiled = contract(self.contract)
        return compiled.encode(self.function, *self.args) if self.function else compiled.constructor(*self.args)

    @property
    def name(self) -> str:
        """Contract and function."""
        return f"{self.contract}.{self.function or 'constructor'}"

    def words(self, names: Mapping[str, str]) -> dict[str, str]:
        """{argument: what it is, as a person reads it}.

        Args:
            names: of addresses that have one.
        """
        inputs = contract(self.contract).inputs(self.function)
        return {
            item["name"].rstrip("_"): _in_words(item["name"], value, names)
            for item, value in zip(inputs, self.args, strict=True)
        }


def _in_words(name: str, value: Any, names: Mapping[str, str]) -> str:
    if name in _UNITS:
        return _UNITS[name](value)
    if isinstance(value, bytes):
        return "0x" + value.hex() if len(value) <= 32 else f"{len(value)} bytes"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} values"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{names[value]} {value}" if value in names else str(value)


def approve(at: Addresses, spender: str, amount: int) -> Call:
    """Let a contract take tokens of the caller's."""
    return Call("FlockToken", at.token, "approve", (spender, amount))


# Operators


def stake(at: Addresses, amount: int) -> Call:
    """Add to the caller's own stake; the vault must be approved for it."""
    return Call("StakeVault", at.vault, "stake", (amount,), _STAKE_GAS)


def unstake(at: Addresses, amount: int) -> Call:
    """Ask for own stake back; it thaws first."""
    return Call("StakeVault", at.vault, "unstake", (amount,))


def withdraw_stake(at: Addresses, epoch: int) -> Call:
    """Take out own stake that was asked for in this epoch of the vault and has thawed."""
    return Call("StakeVault", at.vault, "withdrawStake", (epoch,))


def set_commission(at: Addresses, basis_points: int) -> Call:
    """Set the caller's commission on its delegators' rewards, from some epochs of the vault later on."""
    return Call("StakeVault", at.vault, "setCommission", (basis_points,))


def set_acceptance(at: Addresses, accepts: bool) -> Call:
    """Accept new delegations from now on, or no more."""
    return Call("StakeVault", at.vault, "setAcceptance", (accepts,))


def add_creator(at: Addresses, creator: str) -> Call:
    """Let the caller's pool serve the tasks of a creator, from some epochs of the vault later on."""
    return Call("StakeVault", at.vault, "addCreator", (creator,))


def remove_creator(at: Addresses, creator: str) -> Call:
    """Let the caller's pool serve no more tasks of a creator."""
    return Call("StakeVault", at.vault, "removeCreator", (creator,))


def claim_operator_rewards(at: Addresses) -> Call:
    """Take the caller's rewards and commission as operator out of its pool."""
    return Call("StakeVault", at.vault, "claimOperatorRewards", ())


# Delegators


def delegate(at: Addresses, operator: str, amount: int) -> Call:
    """Delegate to an operator; the vault must be approved for it."""
    return Call("StakeVault", at.vault, "delegate", (operator, amount), _DELEGATE_GAS)


def undelegate(at: Addresses, operator: str, shares: int) -> Call:
    """Ask for shares of a delegation back; they thaw first."""
    return Call("StakeVault", at.vault, "undelegate", (operator, shares))


def withdraw_delegation(at: Addresses, operator: str, epoch: int) -> Call:
    """Take out delegated stake that was asked for in this epoch of the vault and has thawed."""
    return Call("StakeVault", at.vault, "withdraw", (operator, epoch))


def claim_delegation_rewards(at: Addresses, operator: str) -> Call:
    """Take the caller's rewards as delegator."""
    return Call("StakeVault", at.vault, "claim", (operator,))


# Members of a task


def join(at: Addresses, task: bytes, amount: int, chain_tip: bytes, expected: bytes) -> Call:
    """Join a task with stake that is free in the caller's pool.

    Args:
        at: the contracts.
        task: id.
        amount: stake, wei.
        chain_tip: of the member's hash chain.
        expected: digest of creator and terms (`TaskTerms.digest`); the contract refuses any other task.
    """
    return Call("TaskRegistry", at.task, "join", (task, amount, chain_tip, expected))


def enter(at: Addresses, task: bytes, amount: int, expected: bytes) -> Call:
    """Enter a running contest as a node, with stake that is free in the caller's pool.

    Args:
        at: the contracts.
        task: id.
        amount: stake, wei.
        expected: digest of creator, terms and least stake of a node; the contract refuses any other task.
    """
    return Call("TaskRegistry", at.task, "enter", (task, amount, expected))


def cancel_join(at: Addresses, task: bytes) -> Call:
    """Leave a task that has not started."""
    return Call("TaskRegistry", at.task, "cancelJoin", (task,))


def resign(at: Addresses, task: bytes) -> Call:
    """Ask to leave a running task."""
    return Call("TaskRegistry", at.task, "resign", (task,))


def claim(
    at: Addresses, task: bytes, account: str, cumulative: int, proof: Sequence[bytes], to_pool: bool = False
) -> Call:
    """Have an account, or its pool, paid what it has earned of a task's rewards."""
    function = "claimToPool" if to_pool else "claim"
    return Call("RewardDistributor", at.distributor, function, (task, account, cumulative, list(proof)))


def release(at: Addresses, task: bytes, account: str) -> Call:
    """Release what is left of a member's stake from a closed task, or from one that it left long enough ago.

    Of a node that asked to leave a running contest the first call notes that it left, where there is a window.
    """
    return Call("TaskRegistry", at.task, "release", (task, account))


# Anybody


def start(at: Addresses, task: bytes) -> Call:
    """Fix a task's members."""
    return Call("TaskRegistry", at.task, "start", (task,))


def open_task(at: Addresses, task: bytes) -> Call:
    """Begin the first epoch of a task whose members are fixed, or fix its seed block anew."""
    return Call("TaskRegistry", at.task, "open", (task,))


def abandon(at: Addresses, task: bytes, epoch: int) -> Call:
    """Announce that the next epoch is abandoned, or abandon it."""
    return Call("EpochSettlement", at.settlement, "abandon", (task, epoch))


def refund(at: Addresses, task: bytes) -> Call:
    """Pay the creator what has come into a closed task's pool."""
    return Call("TaskRegistry", at.task, "refund", (task,))


def settle(at: Addresses, report: Report, seats: int, signatures: bytes) -> Call:
    """Settle an epoch with what its committee signed; see `transactions.settle_call`."""
    return Call("EpochSettlement", at.settlement, "settle", (astuple(report), seats, signatures))


def correct(at: Addresses, report: Report, root: bytes, total: int, seats: int, signatures: bytes) -> Call:
    """Put another root in the place of one that the guardian disabled.

    Args:
        at: the contracts.
        report: the one that was settled last.
        root: of the rewards that are paid instead.
        total: their sum, wei.
        seats: bitmap of the voter seats of the report's epoch that signed the correction.
        signatures: theirs, EIP-2098, in the order of seats.
    """
    return Call("EpochSettlement", at.settlement, "correct", (astuple(report), root, total, seats, signatures))


def challenge_absence(at: Addresses, report: Report, seat: int) -> Call:
    """Ask a voter seat whose signature the last report came without to show it."""
    return Call("EpochSettlement", at.settlement, "challengeAbsence", (astuple(report), seat))


def answer_challenge(at: Addresses, task: bytes, epoch: int, seat: int, signature: bytes) -> Call:
    """Show the signature, 64 bytes, of a challenged seat."""
    return Call("EpochSettlement", at.settlement, "answerChallenge", (task, epoch, seat, signature))


def slash_absent(at: Addresses, task: bytes, epoch: int, seat: int) -> Call:
    """Announce that a challenged seat is slashed, which has shown no signature in time, or slash it."""
    return Call("EpochSettlement", at.settlement, "slashAbsent", (task, epoch, seat))


def slash_equivocation(at: Addresses, case: tuple[Any, ...], signatures: bytes) -> Call:
    """Slash a member that signed two messages of one kind.

    Args:
        at: the contracts.
        case: task, account, epoch, seed, kind, and the digests of both messages.
        signatures: both, EIP-2098, 128 bytes.
    """
    return Call("EpochSettlement", at.settlement, "slashEquivocation", (*case, signatures))


def slash_report_equivocation(at: Addresses, account: str, first: Report, second: Report, signatures: bytes) -> Call:
    """Slash a member that signed two reports of one epoch; `signatures` are both, EIP-2098, 128 bytes."""
    reports = astuple(first), astuple(second)
    return Call("EpochSettlement", at.settlement, "slashReportEquivocation", (account, *reports, signatures))
