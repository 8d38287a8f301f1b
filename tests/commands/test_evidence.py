"""What anybody can do about a committee with `flock-ray task …`: challenge, slash, accuse, correct, settle."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flock_ray.chain.challenges import ChallengeIndex
from flock_ray.chain.eip712 import message_digest, report_digest
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.keys import Signer
from flock_ray.chain.values import SINK, TOKEN
from flock_ray.commands import challenges
from flock_ray.errors import ChainError, ConfigError, RunDirectoryError
from flock_ray.protocol.contest_message import ContestKind, ContestMessage
from flock_ray.protocol.encoding import to_hex
from flock_ray.store.files import write_json
from tests.commands.market import SIGNERS, Market

pytestmark = pytest.mark.anvil

ABSENT = 2  # the seat
ALICE, BOB = SIGNERS["member-0"].address, SIGNERS["member-1"].address


@pytest.fixture
def run(market: Market) -> str:
    """The folder of a running task with four voters, of which three are a quorum."""
    market.create_task(range(5), num_voters=4, min_members=5, num_epochs=4)
    market.told("task", "start", market.id, key="creator")
    return market.write_task()


def name_of(signer: Signer) -> str:
    return next(name for name, other in SIGNERS.items() if other.address == signer.address)


def test_a_report_that_is_withheld_is_settled_and_its_absent_voter_slashed(market: Market, run: str) -> None:
    owner = market.world.voters()[ABSENT]
    market.sign({ALICE: TOKEN}, silent=[ABSENT, 3])
    assert "2 seats signed, and 3 must (QuorumMissing)" in market.refused("task", "settle", run, key="delegator-0")[1]
    market.sign({ALICE: TOKEN}, silent=[ABSENT])
    priced = market.told("task", "settle", run, "--dry-run", key="delegator-0")
    assert "EpochSettlement.settle" in priced and "  report      that of epoch 1" in priced
    assert market.facts("task", "settle", run, key="delegator-0")["epoch"] == 1

    assert "NotAbsent" in market.refused("task", "challenge", run, "--seat", "0", key="delegator-0")[1]
    challenged = market.told("task", "challenge", run, key="delegator-0")
    assert challenged.startswith(f"epoch 1: challenged seat {ABSENT} in 0x") and "task slash-absent" in challenged
    code, line = market.refused("task", "challenge", run, key="delegator-0")
    assert (code, line) == (ChainError.exit_code, "every seat of epoch 1 signed, or was challenged already")
    assert "the run has no such signature" in market.told("task", "answer", run, key="member-0")
    answer = market.facts("task", "answer", run, key="member-0")
    assert answer == {"epoch": 1, "seat": ABSENT, "account": owner.address, "answered": False}
    code, line = market.refused("task", "slash-absent", run, key="delegator-0")
    assert code == ChainError.exit_code and f"seat {ABSENT} of epoch 1 may answer until 20" in line

    market.wait(3_601)
    announced = market.facts("task", "slash-absent", market.id, key="delegator-0")  # it takes no run's folder
    (case,) = announced["announced"]
    assert (case["epoch"], case["seat"], case["account"]) == (1, ABSENT, owner.address)
    assert announced["slashed"] == [] and stake_of(market, owner.address) == 3_000 * TOKEN
    code, line = market.refused("task", "slash-absent", market.id, key="delegator-0")
    assert code == ChainError.exit_code and f"seat {ABSENT} of epoch 1 can be slashed from 20" in line
    market.wait(case["slash_from_at"] - market.node.timestamp())
    told = market.told("task", "slash-absent", run, key="delegator-0")
    assert told.startswith(f"slashed seat {ABSENT} of epoch 1, {owner.address} in 0x")
    assert stake_of(market, owner.address) == 2_970 * TOKEN
    assert "no challenge is open" in market.refused("task", "slash-absent", run, key="delegator-0")[1]


def stake_of(market: Market, account: str) -> int:
    (row,) = [row for row in market.facts("task", "show", market.id)["members"] if row["account"] == account]
    return int(row["locked_wei"])


def test_a_late_answer_still_counts_and_the_newest_case_comes_first(
    market: Market, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old cases keep no newer one waiting, and no seat of an epoch without a case is asked for."""
    for _ in range(2):
        market.sign({ALICE: TOKEN}, silent=[ABSENT])
        market.told("task", "settle", run, key="relayer")
        market.told("task", "challenge", run, key="delegator-0")
    market.wait(3_601)
    market.told("task", "slash-absent", run, key="delegator-0")
    for epoch in (1, 2):  # the signatures turn up
        file = market.folder / "receipts" / f"{epoch}.json"
        receipt = json.loads(file.read_text())
        digest = bytes.fromhex(receipt["report_hash"][2:])
        by = [signer.sign_digest(market.world.domain.digest(digest)) for signer in market.world.members]
        write_json(file, {**receipt, "signatures": {str(seat): to_hex(it) for seat, it in enumerate(by)}})
    asked: list[object] = []
    eth = type(market.node._web3.eth)
    get_logs = eth.get_logs

    def counted(module: object, fields: object) -> object:
        asked.append(fields)
        return get_logs(module, fields)  # type: ignore[arg-type]

    monkeypatch.setattr(eth, "get_logs", counted)
    lines = market.told("task", "answer", run, key="member-0").splitlines()
    assert [line.partition(" in 0x")[0].partition(" of ")[0] for line in lines] == [
        f"epoch 2, seat {ABSENT}", f"epoch 1, seat {ABSENT}"
    ]  # fmt: skip
    assert all(": answered in 0x" in line for line in lines) and len(asked) == 1
    assert market.told("task", "answer", run, key="member-0") == ""

    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            monkeypatch.setattr(ChallengeIndex, "_read_logs", lambda _: (_ for _ in ()).throw(ChainError("away")))
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(challenges.time, "sleep", nap)
    code, output, _ = market.type("task", "answer", run, "--every", "7", key="member-0")
    assert (code, naps) == (130, [7.0, 7.0]) and output == "not looked at now: away\n", "a watch outlives a node"


def test_a_member_that_slashes_made_leave_is_out_of_the_committee_that_settles(market: Market) -> None:
    market.create_task(range(5), min_members=5, num_epochs=4)
    market.told("task", "start", market.id, key="creator")
    run = market.write_task()
    market.sign({}, slashes=[ReportedSlash(1, 2_000 * TOKEN)])
    market.told("task", "settle", run, key="relayer")
    shown = market.facts("task", "show", market.id)
    assert [row["state"] for row in shown["members"]][1] == "is made to leave: below half its stake"
    assert shown["escrow_wei"] == 1_800 * TOKEN and shown["sink"] == SINK
    (change,) = shown["changes"]
    assert (change["member"], change["what"], change["from_epoch"]) == (1, "leaves", 4)
    for _ in range(2):
        market.sign({})
        market.told("task", "settle", run, key="relayer")
    market.sign({})
    assert "settled in 0x" in market.told("task", "settle", run, key="delegator-0")
    assert market.facts("task", "show", market.id)["members"][1]["state"].startswith("left on 20")


def test_an_epoch_that_nobody_settles_is_abandoned_by_two_calls(market: Market, run: str) -> None:
    code, line = market.refused("task", "abandon", run, key="delegator-0")
    assert code == ChainError.exit_code and "the epoch may be settled until 20" in line
    market.wait(3_601)
    announced = market.facts("task", "abandon", run, key="delegator-0")
    assert (announced["epoch"], announced["abandoned"]) == (1, False)
    since = announced["abandon_from_at"]
    assert market.facts("task", "show", run)["abandonment_announced_from_at"] == since
    code, line = market.refused("task", "abandon", run, key="delegator-0")
    assert code == ChainError.exit_code and "may be done from 20" in line and "(GraceNotOver)" in line
    market.wait(since - market.node.timestamp())
    done = market.facts("task", "abandon", run, key="delegator-0")
    assert (done["abandoned"], done["status"]) == (True, "running")
    shown = market.facts("task", "show", run)
    assert (shown["epochs_settled"], shown["epochs_abandoned_in_a_row"]) == (1, 1)
    assert stake_of(market, ALICE) == 3_000 * TOKEN


def test_what_the_guardian_disabled_is_corrected_by_the_committee(market: Market, run: str) -> None:
    wrong = market.sign({ALICE: 90 * TOKEN})
    market.told("task", "settle", run, key="relayer")
    market.call(SIGNERS["relayer"], "RewardDistributor", "disable", market.world.task, wrong.rewards_root)
    assert market.facts("task", "show", run)["rewards_frozen"] is True
    market.sign({ALICE: 91 * TOKEN})
    assert "waits for a correction (Frozen)" in market.refused("task", "settle", run, key="relayer")[1]

    voters = committee_of(market, wrong)
    file = market.folder / "correction.json"
    write_json(file, {"rewards": {ALICE: 30 * TOKEN, BOB: 20 * TOKEN}})
    before = file.read_text()
    dry = market.told("task", "correct", run, str(file), "--sign", "--dry-run", key=name_of(voters[0]))
    assert "would sign that the rewards up to epoch 1 are 50 tokens" in dry and file.read_text() == before
    for voter in voters[:2]:
        told = market.told("task", "correct", run, str(file), "--sign", key=name_of(voter))
        assert told.startswith(f"{voter.address} signed that the rewards up to epoch 1 are 50 tokens")
    assert "QuorumMissing" in market.refused("task", "correct", run, str(file), key="relayer")[1]
    for _ in range(2):  # a second signature of one voter is no second voice
        market.told("task", "correct", run, str(file), "--sign", key=name_of(voters[2]))
    assert len(json.loads(file.read_text())["signatures"]) == 3
    corrected = market.facts("task", "correct", run, str(file), key="relayer")
    assert (corrected["epoch"], corrected["total_wei"]) == (1, 50 * TOKEN)

    market.wait(61)
    code, line = market.refused("task", "claim", run, "--all", key="relayer")
    assert code == RunDirectoryError.exit_code and "name a correction with --rewards" in line
    claimed = market.facts("task", "claim", run, "--all", "--rewards", str(file), key="relayer")
    assert [row["claimed_wei"] for row in claimed["claimed"]] == [30 * TOKEN, 20 * TOKEN]
    assert (market.wallet("member-0"), market.wallet("member-1")) == (30 * TOKEN, 20 * TOKEN)
    write_json(file, {"rewards": {ALICE: "much"}})
    assert market.refused("task", "correct", run, str(file), key="relayer")[0] == ConfigError.exit_code


def committee_of(market: Market, report: Report) -> list[Signer]:
    """The signers of the seats of an epoch that is settled."""
    receipt = json.loads((market.folder / "receipts" / f"{report.epoch}.json").read_text())
    digest = report_digest(market.world.domain, report)
    by_signature = {to_hex(signer.sign_digest(digest)): signer for signer in market.world.members}
    return [by_signature[signature] for _, signature in sorted(receipt["signatures"].items())]


def test_two_reports_of_one_epoch_cost_their_signer_half_its_stake(market: Market, run: str, tmp_path: Path) -> None:
    report = market.sign({ALICE: TOKEN})
    other = replace(report, rewards_total=2 * TOKEN)
    liar = market.world.members[2]

    def file(name: str, signed: Report, signer: Signer) -> str:
        signature = to_hex(signer.sign_digest(report_digest(market.world.domain, signed)))
        write_json(tmp_path / name, {"report": asdict(signed), "signature": signature})
        return str(tmp_path / name)

    true, false = file("true", report, liar), file("false", other, liar)
    by_another = file("another", other, market.world.members[1])
    for second, reason in ((true, "no contradiction"), (by_another, "not signed by one account")):
        code, line = market.refused("task", "accuse", run, true, second, key="delegator-0")
        assert code == ConfigError.exit_code and reason in line
    assert market.told("task", "accuse", run, true, false, key="delegator-0").startswith(
        f"{liar.address}: accused in 0x"
    )
    assert market.world.client.task_view(market.world.task).members[2].stake == 1_500 * TOKEN
    assert "(AlreadyPunished)" in market.refused("task", "accuse", run, true, false, key="delegator-0")[1]


def test_two_messages_of_a_contests_day_cost_validators_and_nodes_half_their_stake(
    market: Market, tmp_path: Path
) -> None:
    market.create_task(range(4), node_stake=500 * TOKEN, num_voters=3)
    market.told("task", "start", market.id, key="creator")
    market.give(member_4=500)
    market.told("stake", "add", "--all", key="member-4")
    market.told("task", "enter", market.id, "500", "--expect", market.digest, key="member-4")
    run = market.write_task()
    report = market.sign({})
    payloads = [to_hex(bytes([number]) * 32) for number in range(3)]

    def file(name: str, kind: ContestKind, member: int, body: dict[str, object]) -> str:
        message = ContestMessage(kind, market.world.task, 1, member, body)
        digest = message_digest(market.world.domain, message.task, 1, report.seed, str(kind), message.digest)
        signature = market.world.members[member].sign_digest(digest)
        write_json(tmp_path / name, {"message": json.loads(message.data), "signature": to_hex(signature)})
        return str(tmp_path / name)

    gates = [
        file(f"gate {finding}", ContestKind.GATE, 1, {"findings": [[payloads[0], finding, None]]})
        for finding in ("valid", "malformed")
    ]
    manifests = [
        file(f"manifest {payload}", ContestKind.MANIFEST, 4, {"base_model": payloads[0], "payload": payload,
                                                              "salt": payloads[0]})
        for payload in payloads[1:]
    ]  # fmt: skip
    code, line = market.refused("task", "accuse", run, gates[0], manifests[0], key="delegator-0")
    assert code == ConfigError.exit_code and "are not of one kind, epoch and task" in line
    for member, files, stake in ((1, gates, 3_000), (4, manifests, 500)):
        told = market.told("task", "accuse", run, *files, key="delegator-0")
        assert told.startswith(f"member {member}, {market.world.members[member].address}: accused in 0x")
        assert stake_of(market, market.world.members[member].address) == stake * TOKEN // 2
    assert "(AlreadyPunished)" in market.refused("task", "accuse", run, *gates, key="delegator-0")[1]
