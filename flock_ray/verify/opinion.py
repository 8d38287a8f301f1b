"""A voter's second opinion before it signs: this implementation, run on the same signed messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flock_ray.errors import VerificationError
from flock_ray.protocol.message import Message, SignedMessage
from flock_ray.protocol.state import TaskState
from flock_ray.verify.epoch import replay
from flock_ray.verify.message_set import open_message
from flock_ray.verify.report import SigningDomain


def disagreement(
    state: TaskState,
    bulletin: Iterable[SignedMessage],
    relayer: str,
    distributor: str,
    record: bytes,
    report_hash: bytes,
    parsed: Callable[[SignedMessage], Message | None] = lambda _: None,
) -> str:
    """Why this implementation would not sign a record and its report; empty if it agrees with them.

    Args:
        state: before the epoch.
        bulletin: signed messages as the voter received them; those that do not open are ignored.
        relayer: account that the report names.
        distributor: contract that pays claims.
        record: canonical bytes, as the voter derived them.
        report_hash: EIP-712 struct hash of the report.
        parsed: returns a message that the voter has parsed already, or None; signature and body are checked here again.
    """
    domain = SigningDomain(state.scope.chain_id, state.scope.contract, bytes.fromhex(distributor[2:]))
    messages = []
    for signed in bulletin:
        try:
            messages.append(open_message(signed, state, domain, parsed(signed)))
        except VerificationError:
            continue
    replayed = replay(state, messages)
    if replayed.record != record:
        return "the second opinion comes to another record"
    if replayed.report(domain, bytes.fromhex(relayer[2:])).hash != report_hash:
        return "the second opinion comes to another rewards root or report"
    return ""
