"""What a member of a task does with `flock-ray`, from its first token to its last, and what others see of it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields

import pytest
from omegaconf import OmegaConf

from flock_ray.chain.values import TOKEN
from flock_ray.cluster.launch import chain_terms, terms_of
from flock_ray.cluster.member import hash_chain
from flock_ray.cluster.spec import with_model
from flock_ray.commands.main import main
from flock_ray.config import Config
from flock_ray.errors import ChainError, ConfigError, FundsError
from flock_ray.protocol.hashing import keccak
from flock_ray.training.model import ModelHashes
from tests.commands.market import DAY, SIGNERS, Market

pytestmark = pytest.mark.anvil

ME, ACCOUNT = "member-3", SIGNERS["member-3"].address


def test_a_member_stakes_joins_earns_and_leaves(market: Market) -> None:
    market.create_task([0, 1, 2], num_epochs=6)
    ID, expect = market.id, ("--expect", market.digest)
    market.give(member_3=3_100, member_4=3_000)
    code, line = market.refused("task", "join", ID, *expect, key=ME)
    assert code == FundsError.exit_code and f"can lock 0 tokens of the pool of {ACCOUNT}, not 3000" in line
    staked = market.told("stake", "add", "--all", key=ME)
    assert staked.startswith("Staked 3100 tokens in 0x") and "next: flock-ray task join" in staked
    code, line = market.refused("task", "join", ID, key=ME)
    assert code == ConfigError.exit_code and "--expect HASH" in line and "flock-ray task show" in line
    code, line = market.refused("task", "join", ID, "--expect", "ab" * 32, key=ME)
    assert code == ChainError.exit_code and f"its digest is 0x{market.digest}, not 0xabab" in line
    assert market.facts("task", "show", ID)["digest"] == "0x" + market.digest
    code, line = market.refused("task", "join", ID, "2999.5", *expect, key=ME)
    assert code == FundsError.exit_code and "a stake of 2999.5 tokens buys no slot, which costs 3000" in line
    assert market.told("task", "join", ID, *expect, key=ME).startswith("Joined with 3000 tokens and 1 slot in 0x")
    (member,) = [row for row in market.facts("task", "show", ID)["members"] if row["account"] == ACCOUNT]
    assert member == {
        "member": 3, "account": ACCOUNT, "slots": 1, "locked_wei": 3_000 * TOKEN, "delegated_wei": 0, "state": "in"
    }  # fmt: skip
    view = market.world.client.task_view(market.world.task)
    assert view.members[3].chain_tip == hash_chain(SIGNERS[ME], market.world.task, 6 + 3).tip
    assert "AlreadyMember" in market.refused("task", "join", ID, "100", *expect, key=ME)[1]
    assert "WrongStatus" in market.refused("task", "resign", ID, key=ME)[1]

    market.told("task", "start", ID, key="creator")
    run = market.write_task()
    assert re.search(r"^status +running$", market.told("task", "show", run), re.MULTILINE)
    earned: dict[str, int] = {}
    settle(market, earned, 100)
    claimed = market.facts("task", "claim", run, key=ME)
    assert claimed["claimed"] == [{"account": ACCOUNT, "claimed_wei": 100 * TOKEN, "to_its_pool": False}]
    assert market.wallet(ME) == 100 * TOKEN
    code, line = market.refused("task", "claim", run, key=ME)
    assert code == ChainError.exit_code and line == f"nothing is left to be claimed by {ACCOUNT}"

    assert main(["stake", "add", "3000", "--rpc", market.url, "--contracts", run, "--key", "member-4"]) == 0
    joined = market.facts("task", "join", run, "--slots", "1", *expect, key="member-4")
    assert joined["from_epoch"] == 4
    left = market.facts("task", "resign", run, key=ME)
    assert left["out_with_epoch"] == 4 and "AlreadyLeaving" in market.refused("task", "resign", run, key=ME)[1]
    shown = market.facts("task", "show", ID)
    assert [(row["member"], row["what"], row["from_epoch"]) for row in shown["changes"]] == [
        (4, "joins", 4), (3, "leaves", 4)
    ]  # fmt: skip
    assert [row["state"] for row in shown["members"]] == ["in", "in", "in", "asked to leave", "in"]
    settle(market, earned, 150)
    settle(market, earned, 150)
    settle(market, earned, 150)
    assert market.facts("task", "show", ID)["members"][3]["state"].startswith("left on 20")
    paid = market.facts("task", "claim", run, "--all", key="relayer")
    assert [row["claimed_wei"] for row in paid["claimed"]] == [50 * TOKEN]

    code, line = market.refused("task", "release", run, key=ME)
    assert code == ChainError.exit_code and "stays locked until 20" in line and "(EvidenceWindowOpen)" in line
    market.wait(7_200)
    assert "Released 3000 tokens of stake" in market.told("task", "release", run, key=ME)
    code, line = market.refused("stake", "unstake", "3100.5", key=ME)
    assert code == FundsError.exit_code and "3100 tokens of stake are available, not 3100.5" in line
    asked = market.told("stake", "unstake", "--all", key=ME).splitlines()
    assert asked[0].startswith("Asked for 3100 tokens of own stake in 0x")
    assert asked[1].startswith("They thaw until 20") and asked[1].endswith("UTC, then: flock-ray stake withdraw")
    shown = market.facts("stake", "show", ACCOUNT)
    assert (shown["stake_wei"], shown["thawing_wei"], shown["locks"]) == (0, 3_100 * TOKEN, [])
    code, line = market.refused("stake", "withdraw", key=ME)
    assert code == ChainError.exit_code and line.startswith("nothing can be taken out: 3100 tokens thaw until 20")
    market.wait(8 * DAY)
    assert market.told("stake", "withdraw", key=ME).startswith("Took out 3100 tokens of own stake in 0x")
    assert market.wallet(ME) == 3_250 * TOKEN == market.facts("account", "show", ACCOUNT)["in_all_wei"]


def test_a_node_enters_a_contest_and_leaves_it(market: Market) -> None:
    market.create_task([0, 1, 2, 4], node_stake=500 * TOKEN, num_epochs=6)
    ID, expect = market.id, ("--expect", market.digest)
    market.give(member_3=700)
    market.told("stake", "add", "--all", key=ME)
    assert "to be running (WrongStatus)" in market.refused("task", "enter", ID, *expect, key=ME)[1]
    market.told("task", "start", ID, key="creator")
    code, line = market.refused("task", "enter", ID, "--expect", "ab" * 32, key=ME)
    assert code == ChainError.exit_code and f"its digest is 0x{market.digest}, not 0xabab" in line
    code, line = market.refused("task", "enter", ID, "499.5", *expect, key=ME)
    assert code == FundsError.exit_code
    assert line.endswith("a node enters with 500 tokens at least, not 499.5 (InsufficientNodeStake)")
    code, line = market.refused("task", "enter", ID, "701", *expect, key=ME)
    assert code == FundsError.exit_code and "can lock 700 tokens of the pool" in line
    assert market.facts("task", "show", ID)["stake_of_a_node_wei"] == 500 * TOKEN
    entered = market.facts("task", "enter", ID, *expect, key=ME)
    assert (entered["member"], entered["amount_wei"], entered["delegated_wei"]) == (4, 500 * TOKEN, 0)
    (row,) = [row for row in market.facts("task", "show", ID)["members"] if row["account"] == ACCOUNT]
    assert row == {
        "member": 4, "account": ACCOUNT, "slots": 0, "locked_wei": 500 * TOKEN, "delegated_wei": 0, "state": "in"
    }  # fmt: skip
    assert "AlreadyMember" in market.refused("task", "enter", ID, "100", *expect, key=ME)[1]

    run = market.write_task()
    earned: dict[str, int] = {}
    settle(market, earned, 40)
    assert market.told("task", "claim", run, key=ME).startswith(f"Claimed 40 tokens to {ACCOUNT}")
    asked = market.told("task", "resign", run, key=ME)
    assert "out when epoch 4 is over, then: flock-ray task release, and again 7200 seconds later" in asked
    assert market.facts("task", "show", ID)["changes"] == []
    code, line = market.refused("task", "release", run, key=ME)
    assert code == ChainError.exit_code and line.endswith("until epoch 4 is over (StillTakingPart)")
    for _ in range(3):
        settle(market, earned, 40)
    noted = market.told("task", "release", run, key=ME)
    assert noted.startswith(f"Noted that {ACCOUNT} left the contest in 0x") and "500 tokens, answers until 20" in noted
    assert market.facts("task", "show", ID)["members"][4]["state"].startswith("left on 20")
    assert "stays locked until 20" in market.refused("task", "release", run, key=ME)[1]
    market.wait(7_200)
    assert "Released 500 tokens of stake" in market.told("task", "release", run, key=ME)
    assert market.facts("stake", "show", ACCOUNT)["free_wei"] == 700 * TOKEN


def test_a_task_that_is_no_contest_is_not_entered(market: Market) -> None:
    market.create_task([0, 1, 2, 3], num_epochs=6)
    market.told("task", "start", market.id, key="creator")
    code, line = market.refused("task", "enter", market.id, "--expect", market.digest, key="member-4")
    assert code == ChainError.exit_code and "the task takes no nodes" in line
    assert market.facts("task", "show", market.id)["stake_of_a_node_wei"] is None


def settle(market: Market, earned: dict[str, int], tokens: int) -> None:
    """The next epoch, by which the member has earned so much; its root pays at the end."""
    earned[ACCOUNT] = tokens * TOKEN
    market.sign(earned)
    assert "settled in 0x" in market.told("task", "settle", str(market.folder), key="relayer")
    market.wait(61)
    assert "has no signed report of epoch" in market.refused("task", "settle", str(market.folder), key="relayer")[1]


def test_a_task_begins_with_the_hash_of_a_block_that_nobody_knew(market: Market) -> None:
    market.create_task([0, 1, 2, 3], fixed_genesis=False, num_epochs=6)
    market.give(member_4=3_000)
    assert "to be starting (WrongStatus)" in market.refused("task", "open", market.id, key="delegator-0")[1]
    left = market.told("task", "cancel-join", market.id, key=ME)
    assert left.startswith("Left the task, which frees 3000 tokens of stake, in 0x")
    assert "(AlreadyLeaving)" in market.refused("task", "cancel-join", market.id, key=ME)[1]
    assert market.facts("stake", "show", ACCOUNT)["free_wei"] == 3_000 * TOKEN
    assert "3 members with 3 slots are too few" in market.refused("task", "start", market.id, key="creator")[1]
    market.told("stake", "add", "--all", key="member-4")
    market.told("task", "join", market.id, "--expect", market.digest, key="member-4")
    started = market.facts("task", "start", market.id, key="creator")
    assert started["status"] == "starting" == market.facts("task", "show", market.id)["status"]
    assert started["seed_block"] == market.node.head() + 1 == market.facts("task", "show", market.id)["seed_block"]
    assert "can be opened only after block" in market.refused("task", "open", market.id, "--dry-run", key=ME)[1]

    market.node._request("anvil_mine", [hex(300)])  # nobody opened it while the hash was known
    again, opened = map(json.loads, market.told("task", "open", market.id, "--json", key=ME).splitlines())
    assert (again["status"], opened["status"]) == ("starting", "running") and int(opened["seed"], 16)
    shown = market.facts("task", "show", market.id)
    assert (shown["status"], shown["seed_block"], shown["slots"]) == ("running", None, 4)


def test_who_joins_by_a_run_expects_the_runs_own_configuration(market: Market) -> None:
    config = OmegaConf.to_object(OmegaConf.structured(Config))
    assert isinstance(config, Config)
    config.chain.url = market.url
    config.alliance.num_epochs, config.alliance.num_voters, config.alliance.num_proposers = 3, 3, 1
    base, adapter = keccak(b"base"), keccak(b"adapter")
    hashes = ModelHashes(base, bytes(32), bytes(32))
    terms = chain_terms(config, with_model(terms_of(config), SIGNERS["creator"].address, hashes, adapter))
    market.create_task([], **{item.name: getattr(terms, item.name) for item in fields(terms)})
    market.give(member_3=terms.min_stake * terms.max_slots // TOKEN)
    market.told("stake", "add", "--all", key=ME)
    market.write_task(base_model=base, adapter=adapter)
    (market.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    run = str(market.folder)
    config.alliance.pool += 1
    other = market.folder / "other"
    shutil.copytree(market.folder, other, ignore=lambda *_: ["other", "chain"])
    (other / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    code, line = market.refused("task", "join", market.id, "--run", str(other), key=ME)
    assert code == ChainError.exit_code and "it has another creator or other terms" in line
    assert market.told("task", "join", run, key=ME).startswith("Joined with")


def test_an_operator_tells_its_delegators_its_terms(market: Market) -> None:
    market.give(member_0=1)
    assert "is above 50 % (CommissionTooHigh)" in market.refused("pool", "commission", "60", key="member-0")[1]
    assert "at most 10 points" in market.refused("pool", "commission", "12.5", key="member-0")[1]
    told = market.told("pool", "commission", "7.5", key="member-0").splitlines()
    assert told[0].startswith("Set the commission to 7.5 % in 0x") and told[1].startswith("It counts from 20")
    market.told("pool", "accept", "on", key="member-0")
    operator = SIGNERS["member-0"].address
    shown = dict(line.split("  ", 1) for line in market.told("pool", "show", operator.lower()).splitlines())
    told = {name: value.strip() for name, value in shown.items()}
    assert (told["accepts delegations"], told["commission"], told["next commission"]) == ("yes", "0 %", "7.5 %")
    assert told["next commission from"].endswith("00:00:00 UTC")
    assert "has no rewards for it" in market.refused("pool", "claim", key="member-0")[1]
    market.told("pool", "accept", "off", key="member-0")
    assert market.facts("pool", "show", operator)["accepts_delegations"] is False
