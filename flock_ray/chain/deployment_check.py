"""Compares deployed contracts with this package: code, references between contracts, roles, parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from eth_utils.address import to_checksum_address

from flock_ray.chain.abi import contract
from flock_ray.chain.address_book import AddressBook, Entry
from flock_ray.chain.deployed import Deployed, find_contracts
from flock_ray.chain.node import ChainNode
from flock_ray.chain.usage import UsageSettings
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.values import NOBODY
from flock_ray.errors import ChainError, DeploymentError
from flock_ray.protocol.hashing import keccak

if TYPE_CHECKING:
    from flock_ray.chain.deployment import Settings, Step

Holders = Mapping[tuple[str, str], Sequence[str]]


def check_deployment(node: ChainNode, settings: Settings, book: AddressBook, steps: Sequence[Step]) -> Holders:
    """Compare a whole deployment with the transactions that make it.

    Args:
        node: the chain.
        settings: of the deployment.
        book: of the deployment; it is not trusted, but for the hashes of its transactions.
        steps: what this package sends with these settings.

    Returns:
        Who holds which role: {(contract, role): accounts}.

    Raises:
        DeploymentError: something differs; the text names it.
    """
    first_block = min([_check_step(node, step, book.entries[step.name]) for step in steps])
    at = {name: entry.address for name, entry in book.entries.items() if entry.address}
    deployed = Deployed(node, at)
    _require_same(deployed.ties())
    said, chosen = deployed.parameters(), settings.as_json()
    _require_same((name, value, chosen[name]) for name, value in said.items())
    holders = deployed.holders(first_block)
    _require_holders(holders, _chosen_holders(settings, at["TimelockController"]))
    return holders


def check_found(node: ChainNode, settlement: str, first_block: int) -> tuple[Deployed, dict[str, str], Holders]:
    """Compare contracts of which nothing is known but an address: their code, references and admins.

    The storage that an unknown creation code may have left behind is not seen; `check_deployment` sees it.

    Args:
        node: the chain.
        settlement: address of EpochSettlement.
        first_block: in which the timelock was created, or before.

    Returns:
        The contracts, where they are, and who holds which role.

    Raises:
        DeploymentError: something differs; the text names it.
    """
    at = find_contracts(node, settlement)
    deployed = Deployed(node, at)
    deployed.check_code()
    _require_same(deployed.ties())
    holders, timelock = deployed.holders(first_block), at["TimelockController"]
    admins = {(name, role): [timelock] for name, role in holders if role == "admin"}
    foreign = {place: () for place in _FOREIGN}
    _require_holders({place: holders[place] for place in (*admins, *foreign)}, {**admins, **foreign})
    return deployed, at, holders


def check_usage(node: ChainNode, usage: str, settlement: str) -> UsageSettings:
    """Compare a `UsageSettlement` with this package, and with the contracts that it stands beside.

    Args:
        node: the chain.
        usage: address of `UsageSettlement`.
        settlement: address of `EpochSettlement`, of a deployment that was checked.

    Returns:
        What was fixed when it was deployed.

    Raises:
        DeploymentError: other code, or the token or sink of others.
    """
    try:
        reader = UsageReader(node, usage, NOBODY)
    except ChainError as error:
        raise DeploymentError(str(error)) from None
    registry = Deployed(node, find_contracts(node, settlement))
    settings = reader.settings()
    _require_same(
        [
            ("UsageSettlement.token", reader.token, registry.read("TaskRegistry", "token")),
            ("UsageSettlement.sink", settings.sink, registry.read("TaskRegistry", "sink")),
        ]
    )
    return settings


_FOREIGN = (("TaskRegistry", "guardian"), ("RewardDistributor", "creator"))
"""Roles that mean nothing where they are."""


def _chosen_holders(settings: Settings, timelock: str) -> dict[tuple[str, str], Sequence[str]]:
    s = settings
    return {
        ("TaskRegistry", "admin"): [timelock],
        ("TaskRegistry", "creator"): [],
        ("RewardDistributor", "admin"): [timelock],
        ("RewardDistributor", "guardian"): [s.guardian] if s.guardian else [],
        ("TimelockController", "admin"): [timelock],
        ("TimelockController", "proposer"): s.proposers,
        ("TimelockController", "canceller"): s.proposers,
        ("TimelockController", "executor"): s.executors,
        **{place: [] for place in _FOREIGN},
    }


def _require_holders(holders: Holders, expected: Holders) -> None:
    """Refuse any holder that is not expected, and any that is missing.

    Raises:
        DeploymentError: the text names all of them.
    """
    wrong = []
    for (name, role), accounts in holders.items():
        chosen = expected[name, role]
        wrong += [f"{account} is {role} of {name} and must not be" for account in accounts if account not in chosen]
        wrong += [f"{account} is not {role} of {name}" for account in chosen if account not in accounts]
    if wrong:
        raise DeploymentError("; ".join(wrong))


def _require_same(facts: Iterable[tuple[str, object, object]]) -> None:
    for what, actual, expected in facts:
        if actual != expected:
            raise DeploymentError(f"{what} is {actual}, expected {expected}")


def _check_step(node: ChainNode, step: Step, entry: Entry) -> int:
    """Check that the artifact's bytecode with these arguments made the code, and that it has not changed since.

    Returns:
        Number of the block, by the chain: a book that names a later one would hide what came before.
    """
    mined = node.receipt(bytes.fromhex(entry.tx[2:]))
    if mined is None or not mined[1]:
        raise DeploymentError(f"the chain has no transaction {entry.tx} ({step.name}) any more")
    receipt = mined[0]
    transaction = node.transaction(bytes.fromhex(entry.tx[2:]))
    if transaction is None or bytes(transaction["input"]) != step.data:
        raise DeploymentError(f"transaction {entry.tx} ({step.name}) is not what this version and settings send")
    if step.to:
        return receipt.block
    if to_checksum_address(str(receipt.contract_address)) != entry.address:
        raise DeploymentError(f"transaction {entry.tx} did not create {step.name} at {entry.address}")
    code = node.code(entry.address)
    if "0x" + keccak(code).hex() != entry.code_hash or not contract(step.name).runs_as(code):
        raise DeploymentError(f"the code at {entry.address} is not the {step.name} that was deployed there")
    return receipt.block
