"""What a member of a task does with `flock-ray`, from its first token to its last, and what others see of it."""

from __future__ import annotations

import pytest

from flock_ray.chain.values import TOKEN
from flock_ray.cluster.member import hash_chain
from flock_ray.commands.main import main
from flock_ray.errors import ChainError, FundsError
from tests.chain.world import TASK
from tests.commands.market import DAY, SIGNERS, Market

pytestmark = pytest.mark.anvil

ME, ACCOUNT = "member-3", SIGNERS["member-3"].address
ID = TASK.hex()


def test_a_member_stakes_joins_earns_and_leaves(market: Market) -> None:
    market.create_task([0, 1, 2], num_epochs=6)
    market.give(member_3=3_100, member_4=3_000)
    code, line = market.refused("task", "join", ID, key=ME)
    assert code == FundsError.exit_code
    assert line == f"0 tokens are free in the pool of {ACCOUNT}, not 3000; add some with: flock-ray stake add"
    staked = market.told("stake", "add", "--all", key=ME)
    assert staked.startswith("Staked 3100 tokens in 0x") and "next: flock-ray task join" in staked
    code, line = market.refused("task", "join", ID, "2999.5", key=ME)
    assert code == FundsError.exit_code and "a stake of 2999.5 tokens buys no slot, which costs 3000" in line
    assert market.told("task", "join", ID, key=ME).startswith("Joined with 3000 tokens and 1 slot in 0x")
    (member,) = [row for row in market.facts("task", "show", ID)["members"] if row["account"] == ACCOUNT]
    assert member == {"member": 3, "account": ACCOUNT, "slots": 1, "locked_wei": 3_000 * TOKEN, "state": "in"}
    view = market.world.client.task_view(TASK)
    assert view.members[3].chain_tip == hash_chain(SIGNERS[ME], TASK, 6 + 3).tip
    assert "AlreadyMember" in market.refused("task", "join", ID, "100", key=ME)[1]
    assert "WrongStatus" in market.refused("task", "resign", ID, key=ME)[1]

    market.told("task", "start", ID, key="creator")
    run = market.write_task()
    assert "status                     running" in market.told("task", "show", run)
    earned: dict[str, int] = {}
    settle(market, earned, 100)
    claimed = market.facts("task", "claim", run, key=ME)
    assert claimed["claimed"] == [{"account": ACCOUNT, "claimed_wei": 100 * TOKEN, "to_its_pool": False}]
    assert market.wallet(ME) == 100 * TOKEN
    code, line = market.refused("task", "claim", run, key=ME)
    assert code == ChainError.exit_code and line == f"nothing is left to be claimed by {ACCOUNT}"

    assert main(["stake", "add", "3000", "--rpc", market.url, "--contracts", run, "--key", "member-4"]) == 0
    joined = market.facts("task", "join", run, "--slots", "1", key="member-4")
    assert joined["from_epoch"] == 3
    left = market.facts("task", "resign", run, key=ME)
    assert left["out_with_epoch"] == 3 and "AlreadyLeaving" in market.refused("task", "resign", run, key=ME)[1]
    shown = market.facts("task", "show", ID)
    assert [(row["member"], row["what"], row["from_epoch"]) for row in shown["changes"]] == [
        (4, "joins", 3), (3, "leaves", 3)
    ]  # fmt: skip
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


def settle(market: Market, earned: dict[str, int], tokens: int) -> None:
    """The next epoch, by which the member has earned so much; its root pays at the end."""
    earned[ACCOUNT] = tokens * TOKEN
    market.sign(earned)
    assert "settled in 0x" in market.told("task", "settle", str(market.folder), key="relayer")
    market.wait(61)
    assert "has no signed report of epoch" in market.refused("task", "settle", str(market.folder), key="relayer")[1]


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
