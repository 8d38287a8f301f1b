"""What deployed contracts say of themselves and of each other: references, roles, parameters, code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eth_utils.address import to_checksum_address

from flock_ray.chain.abi import contract
from flock_ray.chain.eip712 import Domain, report_digest
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.failures import revert_error
from flock_ray.chain.history import history
from flock_ray.chain.node import ChainNode, Reverted
from flock_ray.chain.values import DELAYS_AN_EPOCH, NOBODY
from flock_ray.errors import DeploymentError
from flock_ray.protocol.hashing import keccak

ADMIN_ROLE = bytes(32)  # DEFAULT_ADMIN_ROLE of OpenZeppelin's AccessControl
GUARDIAN_ROLE = keccak(b"GUARDIAN_ROLE")
_OURS = {"admin": ADMIN_ROLE, "creator": keccak(b"CREATOR_ROLE"), "guardian": GUARDIAN_ROLE}
ROLES = {
    "TaskRegistry": _OURS,
    "RewardDistributor": _OURS,
    "TimelockController": {
        "admin": ADMIN_ROLE,
        **{name: keccak(f"{name.upper()}_ROLE".encode()) for name in ("proposer", "canceller", "executor")},
    },
}
"""Every role of every contract that has roles, and those of ours that mean nothing to it: nobody may hold them."""

TIES = {
    "FlockToken": ("minter",),
    "EmissionController": ("token",),
    "TaskRegistry": ("token", "emission", "vault", "distributor", "settlement"),
    "RewardDistributor": ("token", "registry", "settlement", "vault"),
    "EpochSettlement": ("registry", "distributor"),
    "StakeVault": ("token", "registry", "distributor"),
}
"""Every reference from one contract to another, by the name of the function that tells it."""
_NAMES = {
    "token": "FlockToken", "emission": "EmissionController", "registry": "TaskRegistry", "vault": "StakeVault",
    "distributor": "RewardDistributor", "settlement": "EpochSettlement", "minter": "EmissionController",
}  # fmt: skip


class Deployed:
    """The contracts of a deployment."""

    def __init__(self, node: ChainNode, at: Mapping[str, str]) -> None:
        """Look at contracts.

        Args:
            node: the chain.
            at: address of each by its name.
        """
        self._node, self._at = node, at

    def read(self, name: str, function: str, *args: object) -> Any:
        """The one value that a contract answers with, an address checksummed.

        Raises:
            DeploymentError: it is no such contract.
        """
        compiled, address = contract(name), self._at[name]
        try:
            answer = self._node.call(address, compiled.encode(function, *args), NOBODY)
            (value,) = compiled.decode(function, answer)
        except Reverted as reverted:
            raise DeploymentError(str(revert_error(f"{name}.{function} at {address}", reverted.data))) from None
        except ValueError as error:
            raise DeploymentError(f"{address} is no {name}: {error}") from None
        return to_checksum_address(value) if isinstance(value, str) else value

    def ties(self) -> Iterator[tuple[str, object, object]]:
        """(what, actual, expected) of each reference from one contract to another, and of what members sign."""
        for name, others in TIES.items():
            for other in others:
                yield f"{name}.{other}", self.read(name, other), self._at[_NAMES[other]]
        zero = bytes(32)
        report = Report(zero, 0, zero, zero, zero, zero, 0, (), zero, zero, NOBODY)
        values = tuple(vars(report).values())
        domain = Domain(self._node.chain_id, self._at["EpochSettlement"], self._at["RewardDistributor"])
        signed = self.read("EpochSettlement", "reportDigest", values)
        yield "EpochSettlement.reportDigest", signed.hex(), report_digest(domain, report).hex()

    def holders(self, first_block: int) -> dict[tuple[str, str], list[str]]:
        """{(contract, role): who holds it}: ours are asked for the whole list, the timelock's logs are read.

        Args:
            first_block: in which the timelock was created, or before.
        """
        found = {}
        for name, roles in ROLES.items():
            for role, digest in roles.items():
                listed = name != "TimelockController"
                found[name, role] = self._members(name, digest) if listed else self._granted(digest, first_block)
        return found

    def _members(self, name: str, role: bytes) -> list[str]:
        count = self.read(name, "getRoleMemberCount", role)
        return [self.read(name, "getRoleMember", role, number) for number in range(count)]

    def _granted(self, role: bytes, first_block: int) -> list[str]:
        compiled, address = contract("TimelockController"), self._at["TimelockController"]
        granted, revoked = map(compiled.event_topic, ("RoleGranted", "RoleRevoked"))
        holders: dict[str, None] = {}
        for topics, _ in history(self._node, address, [[granted, revoked], role], first_block):
            account = to_checksum_address(topics[2][12:])
            if topics[0] == granted:
                holders[account] = None
            else:
                holders.pop(account, None)
        return list(holders)

    def parameters(self) -> dict[str, Any]:
        """What was fixed at the deployment, by the names of `deployment.Settings`, as the contracts say it.

        Raises:
            DeploymentError: reward roots wait longer than an epoch of the vault allows.
        """
        vault, settlement = "StakeVault", "EpochSettlement"
        treasury, daily, decay_bps, period_days, start, multiple = self.read("EmissionController", "schedule")
        delay, epoch = self.read("RewardDistributor", "activationDelay"), self.read(vault, "epochLength")
        if delay > epoch // DELAYS_AN_EPOCH:
            raise DeploymentError(
                f"RewardDistributor.activationDelay is {delay} seconds, more than 1/{DELAYS_AN_EPOCH} of the vault's"
                f" epoch of {epoch}: who delegates late takes part in rewards that are known already"
            )
        return {
            "treasury": to_checksum_address(treasury),
            "delay": self.read("TimelockController", "getMinDelay"),
            "activation_delay": delay,
            "absence_bps": self.read(settlement, "absenceBps"),
            "response_window": self.read(settlement, "responseWindow"),
            "grace": self.read(settlement, "grace"),
            "sink": self.read("TaskRegistry", "sink"),
            "evidence_window": self.read("TaskRegistry", "evidenceWindow"),
            "vault_epoch": epoch,
            "unbonding_epochs": self.read(vault, "unbondingEpochs"),
            "commission_delay": self.read(vault, "commissionDelay"),
            "min_delegation": self.read(vault, "minDelegation"),
            "daily": daily,
            "decay_bps": decay_bps,
            "period_days": period_days,
            "start": start,
            "epoch_multiple": multiple,
        }

    def check_code(self) -> None:
        """Compare the code at each address with this package's, whatever its immutables hold.

        Raises:
            DeploymentError: another code is there.
        """
        for name, address in self._at.items():
            if not contract(name).runs_as(self._node.code(address)):
                raise DeploymentError(f"the code at {address} is not that of this package's {name}")


def find_contracts(node: ChainNode, settlement: str) -> dict[str, str]:
    """Address of each contract, followed from that of EpochSettlement; the timelock is the registry's only admin.

    Raises:
        DeploymentError: a contract does not answer as ours do, or the registry has other admins than one.
    """
    at = {"EpochSettlement": settlement}
    deployed = Deployed(node, at)
    at["TaskRegistry"] = deployed.read("EpochSettlement", "registry")
    for other in ("token", "emission", "vault", "distributor"):
        at[_NAMES[other]] = deployed.read("TaskRegistry", other)
    count = deployed.read("TaskRegistry", "getRoleMemberCount", ADMIN_ROLE)
    if count != 1:
        raise DeploymentError(f"TaskRegistry has {count} admins, expected the timelock only")
    at["TimelockController"] = deployed.read("TaskRegistry", "getRoleMember", ADMIN_ROLE, 0)
    return at
