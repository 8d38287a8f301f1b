"""The second opinion of a voter, before it signs: this implementation on the same signed messages."""

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
    """Why a record and its report should not be signed, as far as this implementation can tell; empty if it agrees.

    Args:
        state: before the epoch.
        bulletin: signed messages as they were handed out; what does not open is left out.
        relayer: account that the report names.
        distributor: contract that pays claims.
        record: canonical bytes, as the voter derived them.
        report_hash: EIP-712 struct hash of the report.
        parsed: gives the parsed message where the voter has it already; signature, domain and body count as read here.
    """
    domain = SigningDomain(state.scope.chain_id, state.scope.contract, bytes.fromhex(distributor[2:]))
    messages = []
    for signed in bulletin:
        try:
            messages.append(open_message(signed, state, domain, parsed(signed)))
        except VerificationError:
            continue
    found = replay(state, messages)
    if found.record != record:
        return "the second opinion comes to another record"
    if found.report(domain, bytes.fromhex(relayer[2:])).hash != report_hash:
        return "the second opinion comes to another rewards root or report"
    return ""
