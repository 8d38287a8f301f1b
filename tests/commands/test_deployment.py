"""`flock-ray deployment check`, without any key."""

from __future__ import annotations

import json

import pytest

from flock_ray.chain.abi import contract
from flock_ray.chain.deployment_check import ADMIN_ROLE
from flock_ray.errors import AddressBookError, DeploymentError
from tests.commands.market import SETTINGS, SIGNERS, Market

pytestmark = pytest.mark.anvil


def test_an_outsider_compares_a_deployment_with_this_package(market: Market) -> None:
    check = ["deployment", "check", str(market.book)]
    facts = market.facts(*check)
    assert {row["contract"]: row["address"] for row in facts["contracts"]} == market.at
    assert {row["parameter"]: row["value"] for row in facts["parameters"]} == SETTINGS.as_json()
    timelock = market.at["TimelockController"]
    roles = {(row["contract"], row["role"]): row["account"] for row in facts["roles"]}
    assert [roles[name, "admin"] for name in ("TaskRegistry", "RewardDistributor")] == [timelock] * 2
    assert roles["RewardDistributor", "guardian"] == SETTINGS.guardian
    assert "response_window   3,600 seconds" in market.told(*check)

    book = json.loads(market.book.read_text())
    book["settings"]["absence_bps"] = 1
    other = market.folder / "other.json"
    other.write_text(json.dumps(book))
    code, line = market.refused("deployment", "check", str(other))
    assert code == DeploymentError.exit_code and "(EpochSettlement) is not what this version and settings send" in line
    del book["entries"]["StakeVault"]
    other.write_text(json.dumps(book))
    assert market.refused("deployment", "check", str(other))[0] == AddressBookError.exit_code
    assert market.refused("deployment", "check", str(market.folder / "no"))[0] == AddressBookError.exit_code

    market.node._request("anvil_impersonateAccount", [timelock])
    market.node._request("anvil_setBalance", [timelock, hex(10**18)])
    grant = contract("TaskRegistry").encode("grantRole", ADMIN_ROLE, SIGNERS["member-0"].address)
    market.node._request(
        "eth_sendTransaction", [{"from": timelock, "to": market.at["TaskRegistry"], "data": "0x" + grant.hex()}]
    )
    code, line = market.refused(*check)
    assert code == DeploymentError.exit_code and "admins of TaskRegistry are " in line

    market.node._request("anvil_setCode", [market.at["StakeVault"], "0x6001"])
    code, line = market.refused(*check)
    assert code == DeploymentError.exit_code and "is not the StakeVault that was deployed there" in line
