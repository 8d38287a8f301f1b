"""What a machine that could host members sees of them: their model, data and keys, and the store."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flock_ray.chain.keys import load_signer
from flock_ray.cluster.finding import Finding, look
from flock_ray.cluster.placement import spans
from flock_ray.cluster.spec import GroupSpec
from flock_ray.store.blob_store import BlobStore
from flock_ray.training.first_look import ModelLook, look_at_data, look_at_model
from flock_ray.wire_format.registry import wire_format_of

STORE = "store"
MANY = 32
"""Members whose data is read, and told in a line each; of more of them it is only seen that their files are there."""


@dataclass(frozen=True)
class NodeLook:
    """What one machine saw.

    Attributes:
        findings: model, data and key of each member, store.
        accounts: {member: address of its key}, where members bring keys of their own.
        adapter_bytes, update_bytes: of an adapter, and of an update as it travels; 0 if the model is not known.
    """

    findings: tuple[Finding, ...]
    accounts: Mapping[int, str] = field(default_factory=dict)
    adapter_bytes: int = 0
    update_bytes: int = 0


def look_from_here(specs: Sequence[GroupSpec], token: str) -> NodeLook:
    """Look at all that members of these groups need on this machine, as it is, and start nothing.

    Args:
        specs: of all node groups, which differ in their silos only; without a `store_url` that is not looked at.
        token: mark that the driver left in the store.
    """
    spec = specs[0]
    members = sorted(silo for each in specs for silo in each.silos)
    seen: list[ModelLook] = []
    accounts: dict[int, str] = {}
    findings = [look("model", lambda: _at_model(spec, seen))]
    read, only_found = members[:MANY], members[MANY:]
    findings += [look(f"data of member {member}", _at_data(spec, member, seen)) for member in read]
    findings += _summed("data", only_found, [look(f"data of member {n}", _at_data(spec, n, ())) for n in only_found])
    if not spec.embedded:
        findings += [look(f"key of member {member}", _at_key(spec, member, accounts)) for member in members]
    if spec.store_url:
        findings.append(look(STORE, lambda: _at_store(spec.store_url, token)))
    if not seen:
        return NodeLook(tuple(findings), accounts)
    shapes = seen[0].shapes
    entries = sum(rows * columns for rows, columns in shapes.values())
    return NodeLook(tuple(findings), accounts, 4 * entries, wire_format_of(spec.terms).max_bytes(shapes))


def _at_model(spec: GroupSpec, seen: list[ModelLook]) -> str:
    found = look_at_model(spec.model, spec.lora, spec.backend, spec.data.sequence_length + 1)
    seen.append(found)
    return "; ".join((found.told, *found.notes))


def _summed(what: str, members: Sequence[int], findings: Sequence[Finding]) -> list[Finding]:
    """What is wrong, a line each, and one line for all that is fine."""
    wrong = [finding for finding in findings if finding.error]
    fine = len(findings) - len(wrong)
    return [*wrong, *([Finding(f"{what} of members {spans(members)}", f"{fine} are there, not read")] if fine else [])]


def _at_data(spec: GroupSpec, member: int, seen: Sequence[ModelLook]) -> Callable[[], str]:
    return lambda: look_at_data(spec.data, member, seen[0].tokenizer if seen else None)


def _at_key(spec: GroupSpec, member: int, accounts: dict[int, str]) -> Callable[[], str]:
    def at_key() -> str:
        accounts[member] = load_signer(f"member-{member}", spec.keystore).address
        return accounts[member]

    return at_key


def _at_store(url: str, token: str) -> str:
    """Read the driver's mark in the store, and write one.

    Raises:
        StoreError: it is another place from here, or cannot be written.
    """
    store, mark = BlobStore(url), secrets.token_hex(10)
    store.probe_read(token)
    store.probe_write(mark)
    store.probe_remove(mark)
    return "written and read"
