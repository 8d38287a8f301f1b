"""`jobs/answer.py` on a real anvil: challenged seats, and two messages that contradict each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from flock_ray.chain import transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.eip712 import message_digest, report_digest
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.values import RESPONSE_WINDOW
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.message import Kind, Message
from flock_ray.store.files import write_json
from tests.chain.world import RUN_SEED, World, spec
from tests.runs import ROOT

pytestmark = pytest.mark.anvil

CHAIN_ID = 4_711
ABSENT = 3  # the seat


class Court:
    """A chain with a settled epoch that one seat did not sign, and the folder that a run would have left."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.world = World(spec("rpc", url=url, chain_id=CHAIN_ID), folder)
        self.world.deploy()
        self.world.create(num_epochs=3)
        self.seed = self.world.client.task_view(self.world.task).seed
        self.voters = self.world.voters()
        self.report, _ = self.world.report()
        self.world.settle(self.report, 0b0111)
        info = self.world.client.info()
        members = [[member.address, 1, to_hex(bytes(32)), 0] for member in self.world.members]
        task = {
            "chain_id": CHAIN_ID, "contract": info.settlement, "task": to_hex(self.world.task), "members": members,
            "contracts": {"distributor": info.distributor},
        }  # fmt: skip
        write_json(folder / "task.json", task)
        self.write_receipt(self.voters)

    def write_receipt(self, signers: list[Signer]) -> None:
        (self.folder / "receipts").mkdir(exist_ok=True)
        digest = report_digest(self.world.domain, self.report)
        signatures = {str(seat): to_hex(voter.sign_digest(digest)) for seat, voter in enumerate(signers)}
        receipt = {"epoch": 1, "report": asdict(self.report), "signatures": signatures}
        write_json(self.folder / "receipts" / "1.json", receipt)

    def challenge(self, report: Report, seat: int) -> None:
        data = contract("EpochSettlement").encode("challengeAbsence", tuple(asdict(report).values()), seat)
        where = self.world.client.info().settlement
        self.world.do(self.world.creator, lambda s, c: [transactions.call(s, c, where, data, 300_000)])

    def is_over(self) -> bool:
        info = self.world.client.info()
        (challenge,) = self.world.client._read(
            "EpochSettlement", info.settlement, "challengeOf", self.world.task, 1, ABSENT
        )
        return bool(challenge[2])

    def stake(self, member: int) -> int:
        return self.world.client.task_view(self.world.task).members[member].stake

    def signed(self, name: str, member: int, body: dict[str, str], seed: bytes) -> str:
        """A file with a commitment of epoch 1."""
        message = Message(Kind.COMMITMENT, self.world.task, 1, member, body)
        digest = message_digest(self.world.domain, self.world.task, 1, seed, str(message.kind), message.digest)
        signature = to_hex(self.world.members[member].sign_digest(digest))
        path = self.folder / name
        path.write_text(json.dumps({"message": json.loads(message.data), "signature": signature}))
        return str(path)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        key = run_signer(RUN_SEED, "member-0")._key.to_hex()
        command = [sys.executable, str(ROOT / "jobs" / "answer.py"), str(self.folder), "--rpc", self.url]
        return subprocess.run(
            [*command, "--key", "member-0", *arguments],
            env={**os.environ, "FLOCK_RAY_MEMBER_0_KEY": key}, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def court(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Court]:
    monkeypatch.setenv("FLOCK_RAY_RELAYER_KEY", run_signer(RUN_SEED, "relayer")._key.to_hex())
    names = ["creator", "relayer", *(f"member-{i}" for i in range(5))]
    alloc = {run_signer(RUN_SEED, name).address: GAS_MONEY for name in names}
    process = AnvilProcess(Genesis("anvil", CHAIN_ID, GENESIS_TIME, alloc))
    made = Court(process.url, tmp_path)
    yield made
    made.world.client.close()
    process.close()


def test_a_challenged_seat_is_answered_out_of_the_receipts_once(court: Court) -> None:
    quiet = court.run()
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    court.challenge(court.report, ABSENT)
    court.write_receipt(court.voters[:ABSENT])
    assert "seat 3" in (lacking := court.run()).stdout and "the run has no such signature" in lacking.stdout
    assert not court.is_over()
    court.write_receipt(court.voters)
    answered = court.run()
    assert (answered.returncode, answered.stderr) == (0, "")
    assert answered.stdout.startswith(f"epoch 1, seat 3 of {court.voters[ABSENT].address}: answered in 0x")
    assert court.is_over()
    assert court.run().stdout == ""


def test_an_answer_after_the_deadline_counts_until_the_seat_is_slashed(court: Court) -> None:
    court.challenge(court.report, ABSENT)
    node = court.world.client._node
    node._request("evm_increaseTime", [RESPONSE_WINDOW + 1])
    node._request("evm_mine", [])
    late = court.run()
    assert (late.returncode, late.stderr) == (0, "") and ": answered in 0x" in late.stdout
    assert court.is_over()


def test_two_messages_that_contradict_each_other_cost_half_the_stake_once(court: Court) -> None:
    files = [court.signed(name, 2, {"commitment": to_hex(name.encode() * 32)}, court.seed) for name in ("a", "b")]
    before = court.stake(2)
    accused = court.run("--accuse", *files)
    assert (accused.returncode, accused.stderr) == (0, "")
    assert accused.stdout.startswith(f"member 2, {court.world.members[2].address}: accused in 0x")
    assert court.stake(2) == before - before // 2
    again = court.run("--accuse", *files)
    assert again.returncode == 40 and "AlreadyPunished" in again.stderr
    assert court.stake(2) == before - before // 2


def test_what_proves_nothing_is_not_sent(court: Court) -> None:
    first = court.signed("one", 2, {"commitment": "0x11"}, court.seed)
    other = court.signed("other", 2, {"commitment": "0x22"}, bytes(32))
    stranger = court.signed("stranger", 1, {"commitment": "0x33"}, court.seed)
    for second, reason in ((first, "no contradiction"), (other, "is not signed by"), (stranger, "is not signed by")):
        ended = court.run("--accuse", first, second)
        assert (ended.returncode, ended.stdout) == (10, "") and reason in ended.stderr
    missing = court.run("--accuse", first, first + ".json")
    assert missing.returncode == 61 and "No such file" in missing.stderr
    assert court.stake(2) == court.stake(1)
