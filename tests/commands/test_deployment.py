"""`flock-ray deployment check`, without any key."""

from __future__ import annotations

import json

import pytest

from flock_ray.chain.abi import contract
from flock_ray.chain.deployed import ADMIN_ROLE
from flock_ray.commands.main import main
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
    assert code == DeploymentError.exit_code
    assert line == f"{SIGNERS['member-0'].address} is admin of TaskRegistry and must not be"
    assert "TaskRegistry has 2 admins" in market.refused("deployment", "check", market.at["EpochSettlement"])[1]

    market.node._request("anvil_setCode", [market.at["StakeVault"], "0x6001"])
    code, line = market.refused(*check)
    assert code == DeploymentError.exit_code and "is not the StakeVault that was deployed there" in line


def test_who_has_no_address_book_compares_code_without_immutables(market: Market) -> None:
    check = ["deployment", "check", market.at["EpochSettlement"]]
    facts = market.facts(*check)
    assert {row["contract"]: row["address"] for row in facts["contracts"]} == market.at
    said = {row["parameter"]: row["value"] for row in facts["parameters"]}
    assert said.items() <= SETTINGS.as_json().items() and {"grace", "sink", "activation_delay"} <= said.keys()
    holders = {(row["contract"], row["role"]): row["account"] for row in facts["roles"]}
    assert holders["RewardDistributor", "guardian"] == SETTINGS.guardian
    assert "the timelock is the only admin" in market.told(*check)

    where = market.at["RewardDistributor"]
    code = bytearray(market.node.code(where))
    other = bytes(code[:-1]) + bytes([code[-1] ^ 1])
    market.node._request("anvil_setCode", [where, "0x" + other.hex()])
    code_, line = market.refused(*check)
    assert code_ == DeploymentError.exit_code
    assert line == f"the code at {where} is not that of this package's RewardDistributor"
    assert market.refused("deployment", "check", market.at["FlockToken"])[0] == DeploymentError.exit_code


def test_an_explorer_gets_what_makes_the_code_that_stands_there(
    market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = market.folder / "sources"
    assert main(["deployment", "sources", str(market.book), str(folder)]) == 0
    assert "TaskRegistry" in capsys.readouterr().out
    entries = json.loads(market.book.read_text())["entries"]
    listed = json.loads((folder / "contracts.json").read_text())
    given = json.loads((folder / "standard-input.json").read_text())
    assert {row["contract"]: row["address"] for row in listed} == market.at
    for row in listed:
        sent = market.node.transaction(bytes.fromhex(entries[row["contract"]]["tx"][2:]))
        assert sent is not None
        assert bytes(sent["input"]) == contract(row["contract"]).bytecode + bytes.fromhex(row["constructor_arguments"])
        source, _, name = row["source"].rpartition(":")
        assert f"contract {name} " in given["sources"][source]["content"] and row["compiler"].startswith("v0.8.")
    assert given["settings"]["optimizer"] == {"enabled": True, "runs": 500}
