"""`jobs/deploy.py` as a user types it, against the RPC of a real anvil."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flock_ray.chain.abi import contract
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import run_signer
from flock_ray.chain.rpc import RpcNode
from flock_ray.errors import AddressBookError, ConfigError, KeyMissingError, WrongChainError
from tests.jobs.command import Ended
from tests.runs import ROOT
from tests.waiting import PATIENCE

pytestmark = pytest.mark.anvil

CHAIN_ID = 4_711
ADMIN_ROLE = bytes(32)
CREATOR, GUARDIAN, PROPOSER = (run_signer(7, name) for name in ("creator", "member-0", "member-1"))
KEY = {"FLOCK_RAY_CREATOR_KEY": CREATOR._key.to_hex()}
WITH_KEY = {**{name: value for name, value in os.environ.items() if not name.endswith("_KEY")}, **KEY}
COMMAND = [sys.executable, str(ROOT / "jobs" / "deploy.py")]
STEPS = 11  # seven contracts, the minter, the guardian, the timelock made admin, the deployer no admin any more


@pytest.fixture
def url() -> Iterator[str]:
    process = AnvilProcess(Genesis("anvil", CHAIN_ID, GENESIS_TIME, {CREATOR.address: GAS_MONEY}))
    yield process.url
    process.close()


def chosen(url: str) -> list[str]:
    return [
        f"chain.url={url}", f"chain.chain_id={CHAIN_ID}", f"timelock.proposers=[{PROPOSER.address.lower()}]",
        f"guardian={GUARDIAN.address}", "activation_delay=60", f"timelock.executors=[0x{40 * '0'}]",
    ]  # fmt: skip


def job(folder: Path, *overrides: str, env: dict[str, str] | None = None) -> Ended:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [*COMMAND, *overrides], cwd=folder, env=env or WITH_KEY, capture_output=True, text=True, timeout=PATIENCE
    )
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return Ended(done.returncode, done.stdout, done.stderr, left, 0)


def sent(url: str) -> int:
    node = RpcNode(url)
    number = node.nonce(CREATOR.address)
    node.close()
    return number


def admins(url: str, address: str) -> set[str]:
    """Everybody who was ever made admin and is one still, by the logs of OpenZeppelin's AccessControl."""
    node = RpcNode(url)
    holders: set[str] = set()
    events = {bytes(contract("TimelockController").event_topic(name)): name for name in ("RoleGranted", "RoleRevoked")}
    for log in node._web3.eth.get_logs({"address": address, "fromBlock": 0}):  # type: ignore[typeddict-item]
        event = events.get(bytes(log["topics"][0]))
        if event and bytes(log["topics"][1]) == ADMIN_ROLE:
            account = node._web3.to_checksum_address(log["topics"][2][-20:])
            (holders.add if event == "RoleGranted" else holders.discard)(account)
    node.close()
    return holders


def test_it_is_priced_deployed_once_and_left_alone(url: str, tmp_path: Path) -> None:
    priced = job(tmp_path, *chosen(url), "dry_run=true")
    assert (priced.code, priced.errors, priced.left, sent(url)) == (0, "", [], 0)
    *steps, total = priced.output.splitlines()[1:]
    assert len(steps) == STEPS and total.startswith(f"total of {STEPS} transactions")

    first = job(tmp_path, *chosen(url))
    assert (first.code, first.errors, first.left, sent(url)) == (0, "", ["address_book.json"], STEPS)
    text = (tmp_path / "address_book.json").read_bytes()
    book = json.loads(text)
    used = sum(entry["gas_used"] for entry in book["entries"].values())
    assert used == pytest.approx(int(total.split()[-4].replace(",", "")), rel=0.001)
    assert (book["chain_id"], book["deployer"]) == (CHAIN_ID, CREATOR.address)
    at = book["addresses"]
    named = {"token": "FlockToken", "task": "TaskRegistry", "settlement": "EpochSettlement"}
    assert first.output.endswith(" ".join(f"chain.{key}={at[name]}" for key, name in named.items()) + "\n")
    for name in ("TaskRegistry", "RewardDistributor", "TimelockController"):
        assert admins(url, at[name]) == {at["TimelockController"]}
    assert KEY["FLOCK_RAY_CREATOR_KEY"][2:] not in text.decode() + first.output

    again = job(tmp_path, *chosen(url))
    assert (again.code, again.errors, sent(url)) == (0, "", STEPS)
    assert again.output == "".join(first.output.splitlines(keepends=True)[STEPS:])
    assert (tmp_path / "address_book.json").read_bytes() == text
    priced = job(tmp_path, *chosen(url), "dry_run=true")
    assert "total of 0 transactions" in priced.output


def test_killed_after_the_second_transaction_it_is_finished_by_the_next(url: str, tmp_path: Path) -> None:
    process = subprocess.Popen([*COMMAND, *chosen(url)], cwd=tmp_path, env=WITH_KEY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline().split()[0] for _ in range(2)] == ["TimelockController", "FlockToken"]
    process.kill()
    process.wait()
    process.stdout.close()
    assert 2 <= sent(url) < STEPS
    ended = job(tmp_path, *chosen(url))
    assert (ended.code, ended.errors, sent(url)) == (0, "", STEPS)
    assert "the timelock at" in ended.output and "FlockToken at" not in ended.output


def test_what_is_wrong_is_told_in_one_line(url: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"version": 1, "addresses": {"FlockToken"')
    keyless = {name: value for name, value in os.environ.items() if not name.endswith("_KEY")}
    cases: list[tuple[list[str], type[Exception], str]] = [
        ([f"book={broken}"], AddressBookError, f"{broken} is no address book, or a damaged one"),
        (["chain.chain_id=1"], WrongChainError, "serves chain id 4711, chain.chain_id is 1"),
        (["timelock.proposers=[0x12]"], ConfigError, "timelock.proposers holds no address of 20 bytes: 0x12"),
        (["activation_delay=0"], ConfigError, "guardian has nothing to disable"),
        (
            ["timelock.delayy=1"],
            ConfigError,
            "'timelock.delayy' (did you mean timelock.delay?); valid here: timelock.delay, ",
        ),
    ]

    def play(number: int) -> Ended:
        return job(tmp_path / str(number), *chosen(url), *cases[number][0])

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(play, range(len(cases))))
    for result, (overrides, error, reason) in zip(ended, cases, strict=True):
        assert reason in result.one_line, overrides
        assert result.code == error.exit_code  # type: ignore[attr-defined]
        assert result.left == []
    failed = job(tmp_path / "keyless", *chosen(url), env=keyless)
    assert "no key for creator" in failed.one_line and failed.code == KeyMissingError.exit_code
    assert sent(url) == 0
