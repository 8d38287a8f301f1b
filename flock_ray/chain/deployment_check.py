"""Compares deployed contracts with this package: code, references between contracts, roles, parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from eth_utils.address import to_checksum_address

from flock_ray.chain.abi import contract
from flock_ray.chain.address_book import AddressBook, Entry
from flock_ray.chain.node import ChainNode
from flock_ray.errors import DeploymentError
from flock_ray.protocol.hashing import keccak

if TYPE_CHECKING:
    from flock_ray.chain.deployment import Settings, Step

ADMIN_ROLE = bytes(32)  # DEFAULT_ADMIN_ROLE of OpenZeppelin's AccessControl
GUARDIAN_ROLE = keccak(b"GUARDIAN_ROLE")
ROLES = {
    "TaskRegistry": {"admin": ADMIN_ROLE, "creator": keccak(b"CREATOR_ROLE")},
    "RewardDistributor": {"admin": ADMIN_ROLE, "guardian": GUARDIAN_ROLE},
    "TimelockController": {
        "admin": ADMIN_ROLE,
        **{name: keccak(f"{name.upper()}_ROLE".encode()) for name in ("proposer", "canceller", "executor")},
    },
}
"""Every role of every contract that has roles."""
_TIMELOCK_ROLES = ("PROPOSER_ROLE", "CANCELLER_ROLE", "EXECUTOR_ROLE")


def check_deployment(node: ChainNode, settings: Settings, book: AddressBook, steps: Sequence[Step]) -> None:
    """Compare a whole deployment with the transactions that make it.

    Args:
        node: the chain.
        settings: of the deployment.
        book: of the deployment; it is not trusted, but for the hashes of its transactions.
        steps: what this package sends with these settings.

    Raises:
        DeploymentError: something differs; the text names it.
    """
    for step in steps:
        _check_step(node, step, book.entries[step.name])
    at = {name: entry.address for name, entry in book.entries.items() if entry.address}
    deployed = _Deployed(node, at, book.deployer)
    for what, actual, expected in (*deployed.ties(), *deployed.roles(settings)):
        if actual != expected:
            raise DeploymentError(f"{what} is {actual}, expected {expected}")


def role_holders(node: ChainNode, address: str, role: bytes, first_block: int) -> list[str]:
    """Accounts that hold a role of a contract, by the logs of OpenZeppelin's AccessControl.

    Args:
        node: the chain.
        address: of the contract.
        role: its hash.
        first_block: in which the contract was created, or before.
    """
    granted, revoked = (contract("TimelockController").event_topic(name) for name in ("RoleGranted", "RoleRevoked"))
    holders: dict[str, None] = {}
    for topics, _ in node.history(address, [[granted, revoked], role], first_block):
        account = to_checksum_address(topics[2][12:])
        if topics[0] == granted:
            holders[account] = None
        else:
            holders.pop(account, None)
    return list(holders)


def _check_step(node: ChainNode, step: Step, entry: Entry) -> None:
    """Check that the artifact's bytecode with these arguments made the code, and that it has not changed since."""
    mined = node.receipt(bytes.fromhex(entry.tx[2:]))
    if mined is None or not mined[1]:
        raise DeploymentError(f"the chain has no transaction {entry.tx} ({step.name}) any more")
    transaction = node.transaction(bytes.fromhex(entry.tx[2:]))
    if transaction is None or bytes(transaction["input"]) != step.data:
        raise DeploymentError(f"transaction {entry.tx} ({step.name}) is not what this version and settings send")
    if step.to:
        return
    if to_checksum_address(str(mined[0].contract_address)) != entry.address:
        raise DeploymentError(f"transaction {entry.tx} did not create {step.name} at {entry.address}")
    if "0x" + node.code_hash(entry.address).hex() != entry.code_hash:
        raise DeploymentError(f"the code at {entry.address} is not the {step.name} that was deployed there")


class _Deployed:
    """The contracts of a deployment, and what they say of each other."""

    def __init__(self, node: ChainNode, at: Mapping[str, str], deployer: str) -> None:
        self._node, self._at, self._deployer = node, at, deployer

    def _read(self, name: str, function: str, *args: object) -> object:
        compiled = contract(name)
        answer = self._node.call(self._at[name], compiled.encode(function, *args), self._deployer)
        (value,) = compiled.decode(function, answer)
        return to_checksum_address(value) if isinstance(value, str) else value

    def ties(self) -> Iterator[tuple[str, object, object]]:
        """(what, actual, expected) of each reference from one contract to another."""
        names = {
            "token": "FlockToken", "emission": "EmissionController", "registry": "TaskRegistry",
            "distributor": "RewardDistributor", "settlement": "EpochSettlement", "minter": "EmissionController",
            "vault": "StakeVault",
        }  # fmt: skip
        ties = {
            "FlockToken": ("minter",),
            "EmissionController": ("token",),
            "TaskRegistry": ("token", "emission", "vault", "distributor", "settlement"),
            "RewardDistributor": ("token", "registry", "settlement", "vault"),
            "EpochSettlement": ("registry", "distributor"),
            "StakeVault": ("token", "registry", "distributor"),
        }
        for name, others in ties.items():
            for other in others:
                yield f"{name}.{other}", self._read(name, other), self._at[names[other]]

    def roles(self, settings: Settings) -> Iterator[tuple[str, object, object]]:
        """(what, actual, expected) of each role that matters."""
        s, deployer, timelock = settings, self._deployer, self._at["TimelockController"]
        for name in ROLES:
            for who, account, admin in (("the timelock", timelock, True), ("the deployer", deployer, False)):
                yield f"whether {who} is admin of {name}", self._read(name, "hasRole", ADMIN_ROLE, account), admin
        yield "the timelock's delay", self._read("TimelockController", "getMinDelay"), s.delay
        if s.guardian:
            has = self._read("RewardDistributor", "hasRole", GUARDIAN_ROLE, s.guardian)
            yield "whether the guardian has its role", has, True
        for role in _TIMELOCK_ROLES:
            holders = s.executors if role == "EXECUTOR_ROLE" else s.proposers
            for account in dict.fromkeys((*holders, deployer)):
                has = self._read("TimelockController", "hasRole", keccak(role.encode()), account)
                yield f"whether {account} has {role} of the timelock", has, account in holders
