"""Why a contract refuses a call, in words: one sentence for each custom error that a caller can meet."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter
from typing import Any

from eth_utils.address import is_address, to_checksum_address

from flock_ray.chain.abi import decode_revert, describe_revert
from flock_ray.chain.failures import FUNDS_ERRORS
from flock_ray.chain.values import TaskStatus
from flock_ray.chain.words import format_tokens, percent, utc
from flock_ray.errors import ChainError, FundsError

SENTENCES = {
    # FlockToken
    "ERC20InsufficientBalance": "{sender} has {balance:tokens} tokens, needs {needed:tokens}",
    "ERC20InsufficientAllowance": "{spender} may take {allowance:tokens} tokens of the account, not {needed:tokens}",
    "CapExceeded": "{requested:tokens} more tokens would exceed the cap, which leaves {available:tokens}",
    "MinterAlreadySet": "the token has a minter for good: {minter}",
    # EmissionController
    "DayNotBegun": "the day begins on {begins:utc}",
    "AlreadyReleased": "the amount of day {day} was released already",
    "InvalidSchedule": "no schedule has this value of {field}",
    # TaskRegistry
    "InvalidSink": "the sink must be an account outside the contracts, not {sink}",
    "InvalidWindow": "an evidence window of {window} seconds is longer than {maximum}",
    "TaskExists": "this creator has made the task {task} already",
    "UnexpectedTerms": "the task has the digest {termsDigest}, not {expected}: another creator, or other terms",
    "SeedBlockNotReached": "the task can be opened only after block {number}",
    "PoolTooLarge": "a pool of {pool:tokens} tokens is above the {maximum:tokens} that the emission schedule grants",
    "WrongStatus": "the task is {got:status}, and it would have to be {expected:status}",
    "JoinClosed": "joining ended on {joinDeadline:utc}",
    "TaskFull": "all {maxMembers} places are taken",
    "AlreadyMember": "{account} is a member of the task, or was one: an account joins a task once",
    "AlreadyLeaving": "{account} asked to leave already",
    "TooLate": "the change would count from epoch {epoch} on, after the last one, {numEpochs}",
    "NotMember": "{account} is no member of the task",
    "InsufficientStake": "a stake of {given:tokens} tokens buys no slot, which costs {required:tokens}",
    "InsufficientNodeStake": "a node enters with {required:tokens} tokens at least, not {given:tokens}",
    "NoNodes": "the task takes no nodes: it is no contest",
    "StillTakingPart": "the node takes part until epoch {epoch} is over",
    "InvalidChainTip": "the tip of a hash chain must not be zero",
    "InvalidTerms": "no task can run with this value of {field}",
    "NotEnoughMembers": "{numMembers} members with {numSlots} slots are too few while joining still goes on",
    "UnknownMember": "the task has no member with index {index}",
    "UnknownChange": "the task has no change with number {number}",
    "UnknownSlot": "the task has no slot {slot}",
    "NothingToRelease": "the stake of {account} is released already, or gone",
    "EvidenceWindowOpen": "the stake stays locked until {until:utc}, for late evidence",
    # StakeVault
    "InvalidSettings": "a setting is out of its bounds",
    "ZeroAmount": "the amount must not be zero",
    "StakeUnavailable": "{available:tokens} tokens of stake are available, not {requested:tokens}",
    "NotAccepting": "the operator {operator} accepts no new delegations",
    "BelowMinimum": "a delegation has no share or at least {minimum:tokens}, and {shares:tokens} would be left",
    "StillThawing": "the stake thaws until the vault's epoch {epoch} begins",
    "NothingToWithdraw": "{account} asked for nothing in the vault's epoch {epoch}, or has it already",
    "StakeLocked": "tasks lock {locked:tokens} tokens of the pool, and only {remaining:tokens} would be left",
    "CommissionTooHigh": "a commission of {commission:percent} is above {maximum:percent}",
    "CommissionStepTooLarge": "the commission is {current:percent} and moves at most 10 points at a time, not to"
    " {commission:percent}",
    "AlreadyServed": "the pool serves the creator {creator} already, from the vault's epoch {epoch} on",
    # RewardDistributor
    "RewardsDecreased": "{requested:tokens} tokens would be less than the {committed:tokens} that are committed",
    "OverBudget": "the epoch may commit {budget:tokens} tokens, not {requested:tokens}",
    "ClaimExceedsCommitted": "the task owes {available:tokens} tokens, not {requested:tokens}",
    "InvalidProof": "the root that pays now does not say that {account} earned {cumulative:tokens} tokens",
    "LengthMismatch": "{accounts} accounts and {amounts} amounts",
    "InvalidMultiProof": "the root that pays now is of other rewards",
    "NothingToClaim": "{account} has its {claimed:tokens} tokens already",
    "PaidToPool": "{account} is paid through its pool",
    "NotPaidToPool": "{account} is not paid through its pool",
    "NotPending": "no root {root} waits for its activation",
    "Frozen": "the guardian disabled the root {disabled}; the task waits for a correction",
    "NotFrozen": "no root of the task is disabled: there is nothing to correct",
    "WrongCorrection": "a correction commits {minimum:tokens} to {maximum:tokens} tokens, not {requested:tokens}",
    # EpochSettlement
    "NotRunning": "the task is not running",
    "ChangesDue": "members join or leave with epoch {epoch}: its committee stands only when it is settled",
    "AlreadySettled": "epoch {epoch} is settled, with this very report",
    "WrongEpoch": "epoch {expected} is the next one, not {got}",
    "WrongPreviousReport": "the report continues {got}, and the last one settled is {expected}",
    "WrongSeed": "the report was made under another seed: an epoch was abandoned since",
    "InvalidShare": "a share of {bps:percent} is above all of it",
    "TooFewSlots": "{numSlots} slots are fewer than the {numSeats} seats",
    "NotLastReport": "this report is not the last one settled",
    "TooManySlashes": "the report holds {got} slashes, more than {maximum}",
    "DeadlineNotPassed": "the epoch may be settled until {deadline:utc}",
    "UnknownSeat": "the committee has {numVoters} seats",
    "QuorumMissing": "{got} seats signed, and {required} must",
    "WrongSignatureLength": "{got} bytes of signatures, expected {expected}",
    "InvalidSignature": "signature {index} is not by {owner}, who holds the seat",
    "NoConflict": "the two are the same: no contradiction",
    "NotSignedBy": "{account} did not sign both",
    "DifferentEpochs": "the two reports are not of one task, epoch and seed",
    "AlreadyPunished": "the member was punished for this already",
    "NotAbsent": "seat {seat} signed, or the committee does not have it",
    "AlreadyChallenged": "seat {seat} was challenged already",
    "NoChallenge": "seat {seat} was not challenged, or the case is over",
    "ResponseWindowOpen": "there is time to answer until {deadline:utc}",
    "GraceNotOver": "it is announced, and may be done from {from:utc} on",
    "UnknownKind": "no message of the kind {kind} is ever signed",
    "UnknownEpoch": "epoch {epoch} cannot have been signed yet, the last one that can is {last}",
    # UsageSettlement
    "ZeroAccount": "the account must not be zero",
    "BalanceTooLow": "{available:tokens} tokens are there, not {requested:tokens}",
    "NotReady": "nothing may be taken out before {readyAt:utc}, if anything was asked for",
    "DifferentRequests": "the two receipts are not of one request of one gateway",
    "SameReceipt": "the two receipts are the same: no contradiction",
    "NotReceiptKey": "{key} signs no receipts of {gateway}",
    "SignedByAnother": "{account} did not sign this",
    "RequestPunished": "the gateway was punished for the request {request} already",
    "StakeTooLow": "a gateway settles with {required:tokens} tokens of stake that it did not ask back, not with"
    " {standing:tokens}",
    "WrongBatch": "batch {expected} is the next one, not {got}",
    "NothingCharged": "a batch charges more than the {before:tokens} tokens before it, not {total:tokens}",
    "UnknownBatch": "the series has no batch {number}",
    "NotActive": "the batch is active from {from:utc} on",
    "AlreadyActive": "batch {number} is active already",
    "NotInBatch": "batch {number} has no such entries",
    "AboveCap": "{account} is charged {cumulative:tokens} tokens, above its cap of {cap:tokens}",
    "CapExpired": "the cap of {account} expired on {expiry:utc}, before the batch was settled",
    "ChargesExceedTotal": "the charges sum to {collected:tokens} tokens, and the batch says {total:tokens}",
    "BatchShort": "the batch has {collected:tokens} of its {total:tokens} tokens so far",
    "BatchNotFilling": "with {collected:tokens} tokens collected the batch from {from:tokens} to {total:tokens} is not"
    " the one that is filling",
    "PayoutDecreased": "the payouts fall from {before:tokens} to {cumulative:tokens} tokens",
    "ClaimExceedsPot": "{available:tokens} tokens are collected and not paid, not {requested:tokens}",
    "AlreadyCollected": "{collected:tokens} tokens of {account} were collected already",
    "ChallengeExists": "this charge was challenged already",
    "NoOpenChallenge": "this charge was not challenged, or the case is over",
    # all
    "Unauthorized": "{caller} may not do this",
    "AccessControlUnauthorizedAccount": "{account} lacks the role {neededRole}",
}
"""{custom error: sentence}, with the error's fields and, after a colon, how one is told."""

_KINDS: dict[str, Callable[[Any], str]] = {
    "tokens": format_tokens,
    "utc": utc,
    "percent": percent,
    "status": lambda number: TaskStatus(number).name.lower(),
}


class _Teller(Formatter):
    """Formats a field as its sentence says."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec:
            return _KINDS[format_spec](value)
        return to_checksum_address(value) if is_address(value) else str(value)


def refusal(what: str, data: bytes) -> ChainError:
    """The error that says why a contract refuses `what`.

    Args:
        what: contract and function.
        data: what the call reverted with.
    """
    name, fields = decode_revert(data)
    told = describe_revert(data)[1] or "without a reason"
    if name in SENTENCES:
        told = f"{_Teller().vformat(SENTENCES[name], (), fields)} ({name})"
    kind = FundsError if name in FUNDS_ERRORS else ChainError
    return kind(f"{what} is refused: {told}")
