"""What a delegator and its operator do with `flock-ray`, from the first token to the last."""

from __future__ import annotations

import pytest

from flock_ray.chain.values import TOKEN
from flock_ray.errors import ChainError, FundsError
from tests.commands.market import DAY, SIGNERS, Market

pytestmark = pytest.mark.anvil

OPERATOR, DELEGATOR = SIGNERS["member-0"].address, SIGNERS["delegator-0"].address
ME = "delegator-0"
UNBONDING = 8 * DAY  # what is left of the day, and seven more


def test_a_delegator_delegates_earns_and_leaves(market: Market) -> None:
    market.give(member_0=2_400, delegator_0=1_000)
    assert market.refused("delegation", "add", OPERATOR, "600", key=ME) == (
        ChainError.exit_code,
        f"StakeVault.delegate is refused: the operator {OPERATOR} accepts no new delegations (NotAccepting)",
    )
    assert "accepts new delegations" in market.told("pool", "accept", "on", key="member-0")
    serve_the_creator(market)
    market.told("pool", "commission", "10", key="member-0")
    market.told("stake", "add", "2400", key="member-0")

    priced = market.told("delegation", "add", OPERATOR, "600.5", "--dry-run", key=ME).splitlines()
    assert priced[0] == f"Dry run on chain 4711 for {DELEGATOR}: nothing is sent"
    assert priced[1:4] == [
        "FlockToken.approve", f"  spender  StakeVault {market.at['StakeVault']}", "  value    600.5 tokens"
    ]  # fmt: skip
    assert {"StakeVault.delegate", f"  operator  {OPERATOR}", "  amount    600.5 tokens"} <= set(priced)
    assert priced[-1].startswith("In all at most 0.00") and market.node.nonce(DELEGATOR) == 0
    added = market.facts("delegation", "add", OPERATOR, "600.5", key=ME)
    assert (added["amount_wei"], len(added["transactions"])) == (6_005 * TOKEN // 10, 2)
    today = market.node.timestamp() // DAY
    assert (added["earns_from_epoch"], added["earns_from_at"]) == (today + 2, (today + 2) * DAY)
    added = market.facts("delegation", "add", OPERATOR, "--all", key=ME)
    assert (added["amount_wei"], market.wallet(ME)) == (3_995 * TOKEN // 10, 0)
    code, line = market.refused("delegation", "add", OPERATOR, "1", key=ME)
    assert code == FundsError.exit_code and line == f"{DELEGATOR} has 0 tokens, needs 1"

    market.wait(3 * DAY)
    run = start_with_the_pool(market)
    earn(market, 100)
    assert "into the pool of" in market.told("task", "claim", run, "--account", OPERATOR, key=ME)
    shown = market.facts("delegation", "show", DELEGATOR)
    (row,) = shown["delegations"]
    assert (row["operator"], row["stake_wei"], row["earns"]) == (OPERATOR, 1_000 * TOKEN, True)
    first = row["rewards_wei"]
    assert 29.411 * TOKEN < first < 29.412 * TOKEN, "by stake, 10 of 34 parts: no commission yet"
    (lock,) = shown["locks"]
    part = lock["delegated_locked_wei"]
    assert lock == {
        "operator": OPERATOR, "task": "0x" + market.id, "own_locked_wei": 3_000 * TOKEN - part,
        "delegated_locked_wei": part, "your_part_wei": part,
    }  # fmt: skip
    assert (row["locked_of_that_wei"], row["free_of_that_wei"]) == (part, 1_000 * TOKEN - part)
    shown = market.facts("pool", "show", OPERATOR)
    assert (shown["own_locked_wei"], shown["own_free_wei"]) == (3_000 * TOKEN - part, part - 600 * TOKEN)
    assert (shown["delegated_locked_wei"], shown["delegated_free_wei"]) == (part, 1_000 * TOKEN - part)
    assert 882.3 * TOKEN < part < 882.4 * TOKEN, "ten parts of 34 of the 3,000"
    assert market.facts("delegation", "claim", OPERATOR, key=ME)["amount_wei"] == first == market.wallet(ME)
    code, line = market.refused("delegation", "claim", OPERATOR, key=ME)
    assert code == ChainError.exit_code and "has no rewards" in line

    market.wait(8 * DAY)
    assert market.facts("pool", "show", OPERATOR)["commission_bps"] == 1_000
    earn(market, 200)
    market.told("task", "claim", run, "--account", OPERATOR, key=ME)
    (row,) = market.facts("delegation", "show", DELEGATOR)["delegations"]
    assert row["rewards_wei"] == pytest.approx(0.9 * first, rel=1e-9) and row["claimed_wei"] == first
    assert market.facts("pool", "claim", key="member-0")["amount_wei"] == market.wallet("member-0") > 140 * TOKEN

    code, line = market.refused("delegation", "remove", OPERATOR, "1000.1", key=ME)
    assert code == FundsError.exit_code and "has 1000 tokens with" in line
    part = market.told("delegation", "remove", OPERATOR, "2.5", key=ME)
    assert "2.5 tokens of stake" in part and "then: flock-ray delegation withdraw" in part
    market.wait(DAY)
    market.told("delegation", "remove", OPERATOR, "116", key=ME)
    market.wait(DAY)
    rest = market.facts("delegation", "remove", OPERATOR, "--all", key=ME)
    asked = market.facts("delegation", "show", DELEGATOR)["asked_for"]
    assert [row["thawing_wei"] for row in asked] == [5 * TOKEN // 2, 116 * TOKEN, 1_763 * TOKEN // 2]
    assert asked[2]["ready_at"] == rest["ready_at"] == asked[0]["ready_at"] + 2 * DAY
    code, line = market.refused("delegation", "withdraw", OPERATOR, key=ME)
    assert code == ChainError.exit_code and line.startswith("nothing can be taken out: 2.5 tokens thaw until 20")

    market.wait(UNBONDING)  # what is left must cover the task's lock
    priced = market.facts("delegation", "withdraw", OPERATOR, "--dry-run", key=ME)
    assert len(priced["calls"]) == 2, "either of the first two alone, but not both"
    taken = market.facts("delegation", "withdraw", OPERATOR, key=ME)
    assert taken["amount_wei"] == 5 * TOKEN // 2 and (len(taken["asked_for"]), len(taken["transactions"])) == (2, 1)
    assert "tokens of the pool, and only 881.5 would be left (StakeLocked)" in taken["refused"]
    code, line = market.refused("delegation", "withdraw", OPERATOR, key=ME)
    assert code == ChainError.exit_code and "(StakeLocked)" in line
    market.told("task", "release", run, "--account", OPERATOR, key=ME)
    assert market.facts("delegation", "withdraw", OPERATOR, key=ME)["asked_for"] == []
    market.told("delegation", "claim", OPERATOR, key=ME)
    shown = market.facts("account", "show", DELEGATOR)
    assert shown["tokens_wei"] == shown["in_all_wei"] == market.wallet(ME) > 1_055 * TOKEN
    assert market.facts("delegation", "show", DELEGATOR)["asked_for"] == []


def serve_the_creator(market: Market) -> None:
    """The pool serves the creator's tasks, long enough from now on for whoever dislikes it to leave."""
    creator = SIGNERS["creator"].address
    since = market.facts("pool", "creators", "add", creator, key="member-0")["from_epoch"]
    assert since == market.node.timestamp() // DAY + 8
    code, line = market.refused("pool", "creators", "add", creator, key="member-0")
    assert code == ChainError.exit_code and f"already, from the vault's epoch {since} on (AlreadyServed)" in line
    (row,) = market.facts("pool", "creators", "list", OPERATOR)["creators"]
    assert (row["creator"], row["counts"], row["from_epoch"]) == (creator, False, since)
    market.wait(8 * DAY)
    assert market.facts("pool", "show", OPERATOR)["creators"][0]["counts"] is True
    market.told("pool", "creators", "add", DELEGATOR, key="member-0")
    market.told("pool", "creators", "remove", DELEGATOR, key="member-0")
    assert "does not serve" in market.refused("pool", "creators", "remove", DELEGATOR, key="member-0")[1]
    assert [row["creator"] for row in market.facts("pool", "creators", "list", OPERATOR)["creators"]] == [creator]


def start_with_the_pool(market: Market) -> str:
    """A running task of three members and the operator, whose stake is its own and the delegator's."""
    market.create_task([1, 2, 3])
    joined = market.facts("task", "join", market.id, "--expect", market.digest, key="member-0")
    assert (joined["amount_wei"], joined["slots"]) == (3_000 * TOKEN, 1) and joined["delegated_wei"] > 882 * TOKEN
    market.told("task", "start", market.id, key="creator")
    return market.write_task()


def earn(market: Market, tokens: int) -> None:
    """The operator has earned so many tokens in all, as the next epoch settles."""
    market.sign({OPERATOR: tokens * TOKEN})
    assert "settled in 0x" in market.told("task", "settle", str(market.folder), key="relayer")
    market.wait(61)
