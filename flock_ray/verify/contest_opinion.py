"""A validator's second opinion before it signs a contest's day: this implementation, run on the same messages."""

from __future__ import annotations

from collections.abc import Iterable

from flock_ray.errors import VerificationError
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.message import SignedMessage
from flock_ray.verify.contest import replay_day
from flock_ray.verify.contest_entries import open_contest_message
from flock_ray.verify.report import SigningDomain


def contest_disagreement(
    state: ContestState,
    bulletin: Iterable[SignedMessage],
    relayer: str,
    distributor: str,
    record: bytes,
    report_hash: bytes,
) -> str:
    """Why this implementation would not sign a day's record and its report; empty if it agrees with them.

    Args:
        state: before the day.
        bulletin: signed messages as the validator received them; those that do not open are ignored.
        relayer: account that the report names.
        distributor: contract that pays claims.
        record: canonical bytes, as the validator derived them.
        report_hash: EIP-712 struct hash of the report.
    """
    domain = SigningDomain(state.scope.chain_id, state.scope.contract, bytes.fromhex(distributor[2:]))
    messages = []
    for signed in bulletin:
        try:
            messages.append(open_contest_message(signed, state, domain))
        except VerificationError:
            continue
    replayed = replay_day(state, messages)
    if replayed.record != record:
        return "the second opinion comes to another record"
    if replayed.report(domain, bytes.fromhex(relayer[2:])).hash != report_hash:
        return "the second opinion comes to another rewards root or report"
    return ""
