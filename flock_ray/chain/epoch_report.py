"""The report of an epoch that a committee signs, as the contract `EpochSettlement` accepts it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportedSlash:
    """Stake taken from one member.

    Attributes:
        member: number in registration order.
        amount: wei; the contract clamps it to the remaining stake.
    """

    member: int
    amount: int


@dataclass(frozen=True)
class Report:
    """The outcome of one epoch. Hashes are 32 bytes, amounts are wei.

    Attributes:
        task: id of the task.
        epoch: 1-based; the contract accepts only the epoch after the last settled one.
        previous_report: report hash of the epoch settled before, zero for the first.
        seed: the epoch's seed, from which the contract draws the committee.
        reveals_digest: digest of the voters' reveals; makes the next seed.
        rewards_root: Merkle root over what every account earned since the task's start.
        rewards_total: sum of those amounts; never falls.
        slashes: at most 16.
        model_hash: hash of the global adapter after the epoch.
        record_hash: hash of the epoch's record.
        relayer: checksummed address that gets the relayer's share of the slashes.
    """

    task: bytes
    epoch: int
    previous_report: bytes
    seed: bytes
    reveals_digest: bytes
    rewards_root: bytes
    rewards_total: int
    slashes: tuple[ReportedSlash, ...]
    model_hash: bytes
    record_hash: bytes
    relayer: str
