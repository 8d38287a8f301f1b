"""A task on a chain that the run does not own: here a real anvil behind its RPC, with keys in files or the environment.

Keys are where they sign: the creator's with the command, the relayer's and the members' in processes of the cluster.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from flock_ray.chain import transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import PASSWORD_VARIABLE, Signer, run_signer
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.signed import parse
from flock_ray.chain.values import TxContext
from flock_ray.cluster.placement import make_plan
from flock_ray.cluster.run_directory import RunDirectory, load_config
from flock_ray.config import Config
from flock_ray.errors import ChainUnreachableError, FundsError, KeyMissingError, VerificationError, WrongChainError
from flock_ray.session import run_alliance
from flock_ray.telemetry.table import Console
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from tests.chaos.proxy import Proxy
from tests.jobs.command import Ended, alliance
from tests.runs import ROOT, Head, Run, ray_head, tiny
from tests.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.anvil]

CHAIN_ID = 4_711
NUM_MEMBERS = 5
MEMBERS = [f"member-{number}" for number in range(NUM_MEMBERS)]
PASSWORD = "correct horse"
TOKEN = 10**18


def signer(name: str) -> Signer:
    return run_signer(99, name)


def variables(*names: str) -> dict[str, str]:
    """Environment variables with the keys of these accounts."""
    return {f"FLOCK_RAY_{name.upper().replace('-', '_')}_KEY": signer(name)._key.to_hex() for name in names}


def chain_of(*names: str) -> AnvilProcess:
    """A chain on which these accounts have gas money."""
    alloc = {signer(name).address: GAS_MONEY for name in names}
    return AnvilProcess(Genesis("anvil", CHAIN_ID, GENESIS_TIME, alloc))


@dataclass
class Place:
    """A cluster whose processes hold the relayer's and the members' keys, and the chain."""

    head: Head
    url: str
    base: list[str]
    logs: Path

    def play(self, folder: Path, *overrides: str, env: dict[str, str] | None = None) -> Ended:
        folder.mkdir(exist_ok=True)
        keys = variables("creator") if env is None else env
        return alliance(folder, *self.base, f"chain.url={self.url}", *overrides, env=keys)


@pytest.fixture(scope="module")
def place(tiny_model_dir: Path) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables("relayer", *MEMBERS), PASSWORD_VARIABLE: PASSWORD}.items():
            patch.setenv(name, value)
        chain = chain_of("creator", "relayer", *MEMBERS)
        try:
            with ray_head() as head:
                base = tiny(
                    tiny_model_dir,
                    "cluster=existing",
                    f"cluster.address={head.address}",
                    "chain=rpc",
                    f"alliance.num_members={NUM_MEMBERS}",
                    "alliance.num_proposers=1",
                    "alliance.num_epochs=1",
                    "adversary=none",
                )
                yield Place(head, chain.url, base, head.folder)
        finally:
            chain.close()


def owned(url: str, contracts: dict[str, str], account: str) -> int:
    """What the token and the vault themselves say: the wallet, and the account's own stake."""
    node = RpcNode(url)
    answer = node.call(contracts["token"], contract("FlockToken").encode("balanceOf", account), account)
    pool = node.call(contracts["vault"], contract("StakeVault").encode("pool", account), account)
    node.close()
    return int.from_bytes(answer, "big") + int.from_bytes(pool[:32], "big")


def check_paid(place: Place, folder: Path, ended: Ended) -> Path:
    """The run settled on the chain, everybody is paid out, and no key is written anywhere."""
    assert (ended.code, ended.errors) == (0, ""), ended.errors
    run = (folder / "outputs" / "latest").resolve()
    summary = json.loads((run / "summary.json").read_text())
    contracts = summary["chain"]["contracts"]
    assert (summary["chain"]["backend"], summary["chain"]["chain_id"]) == ("rpc", CHAIN_ID)
    for name in ("token", "task", "settlement"):
        assert f"chain.{name}={contracts[name]}" in ended.output
    assert summary["epochs"][0]["settlement_tx"] and summary["epochs"][0]["gas_used"]
    members = summary["members"]
    assert [member["address"] for member in members] == [signer(name).address for name in MEMBERS]
    assert sum(member["earned_wei"] for member in members) > 0
    for member in members:
        held = owned(place.url, contracts, member["address"])
        assert held == member["balance_end_wei"] == member["balance_start_wei"] + member["earned_wei"]
    assert leaked(run, place.logs) == []
    assert not any(secret in ended.output.lower() for secret in secrets())
    lines: list[str] = []
    verify_run(RunFolder(run), "", place.url, lines.append)
    assert any("their code was not compared" in line for line in lines)
    return run


def secrets() -> list[str]:
    keys = [signer(name)._key.to_hex().removeprefix("0x") for name in ("creator", "relayer", *MEMBERS)]
    return [*keys, PASSWORD]


def leaked(*folders: Path) -> list[str]:
    """Files that hold a key, as text or as bytes, or the password."""
    needles = [text.encode() for text in secrets()]
    needles += [bytes.fromhex(text) for text in secrets() if text != PASSWORD]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if any(needle in file.read_bytes().lower() for needle in needles)]


def test_with_keys_in_the_environment_the_creator_deploys_and_the_members_are_paid(
    place: Place, tmp_path: Path
) -> None:
    run = check_paid(place, tmp_path, place.play(tmp_path, "chain.backend=auto", f"chain.chain_id={CHAIN_ID}"))
    config = (run / "config.yaml").read_text()
    names = {line.partition(":")[0].strip() for line in config.splitlines() if ":" in line}
    assert place.url in config and [name for name in names if "key" in name] == ["keystore"]


def test_with_keystore_files_and_contracts_that_are_there_already(place: Place, tmp_path: Path) -> None:
    keystore = tmp_path / "keys"
    keystore.mkdir()
    for name in ("creator", "relayer", *MEMBERS):
        encrypted = Account.encrypt(signer(name)._key.secret, PASSWORD, kdf="pbkdf2", iterations=2)
        (keystore / f"{name}.json").write_text(json.dumps(encrypted))
    contracts = deploy_with_the_job(place.url, keystore, tmp_path)
    give(place.url, contracts[0].partition("=")[2], stakes(MEMBERS))
    ended = place.play(tmp_path, f"chain.keystore={keystore}", *contracts, env={PASSWORD_VARIABLE: PASSWORD})
    check_paid(place, tmp_path, ended)
    assert [f"chain.{part}" in ended.output for part in ("token", "task", "settlement")] == [True] * 3


def deploy_with_the_job(url: str, keystore: Path, folder: Path) -> list[str]:
    """Contracts made by `jobs/deploy.py`; the overrides that it prints. The creator is the treasury."""
    command = [sys.executable, str(ROOT / "jobs" / "deploy.py"), f"chain.url={url}", f"chain.keystore={keystore}"]
    command += [f"book={folder / 'book.json'}", f"timelock.proposers=[{signer('member-0').address}]"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout.splitlines()[-1].removeprefix("Contracts: ").split()


def give(url: str, token: str, grants: list[tuple[str, int]]) -> None:
    """Tokens of the creator's."""
    node, creator = RpcNode(url), signer("creator")
    max_fee, tip = node.fees()
    nonce, total = node.nonce(creator.address), sum(amount for _, amount in grants)
    context = TxContext(node.chain_id, nonce, max_fee, tip, GAS_MONEY, total, token, "", "", "", "")
    for raw in transactions.transfer(creator, context, grants):
        node.wait([node.send(raw, 0)], PATIENCE)
    node.close()


def stakes(names: list[str]) -> list[tuple[str, int]]:
    return [(signer(name).address, 3_000 * TOKEN) for name in names]


def deploy(url: str, grants: list[tuple[str, int]]) -> list[str]:
    """Contracts made by hand, tokens given out; the overrides that name them."""
    from flock_ray.chain.client import ChainClient
    from flock_ray.chain.values import ChainSpec

    creator = signer("creator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOCK_RAY_RELAYER_KEY", variables("relayer")["FLOCK_RAY_RELAYER_KEY"])
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            client = ChainClient(ChainSpec("rpc", (url,), 0, "", 0, 0, [], "", "", "", 20.0), folder)
            supply = sum(amount for _, amount in grants)
            raws, made = transactions.deploy(creator, client.context(creator.address), supply, client.timestamp())
            client.broadcast(raws, 0)
            client.set_contracts(made)
            client.broadcast(transactions.transfer(creator, client.context(creator.address), grants), 0)
            client.close()
    return [f"chain.token={made.token}", f"chain.task={made.task}", f"chain.settlement={made.settlement}"]


def test_what_is_missing_on_the_chain_is_told(place: Place, tmp_path: Path) -> None:
    """Two at a time: keys, gas money, tokens, and the wrong chain."""
    poor = chain_of("creator", "relayer", *MEMBERS[:-1])
    try:
        unstaked = deploy(place.url, [(signer("creator").address, 1_000 * TOKEN), *stakes(MEMBERS[:-1])])
        last = signer(MEMBERS[-1]).address
        cases: list[tuple[list[str], type[Exception], str]] = [
            ([f"chain.url={poor.url}"], FundsError, f"{last} has 0 wei for gas, needs "),
            (unstaked, FundsError, f"{last} has 0 tokens, needs 3000 for the stake"),
            (
                ["alliance.num_members=6"],
                KeyMissingError,
                "no key for member-5: set FLOCK_RAY_MEMBER_5_KEY, or chain.k",
            ),
            (["chain.chain_id=1"], WrongChainError, "serves chain id 4711, chain.chain_id is 1"),
        ]
        with ThreadPoolExecutor(2) as pool:
            folders = [tmp_path / str(number) for number in range(len(cases))]
            ended = list(pool.map(lambda folder, case: place.play(folder, *case[0]), folders, cases))
    finally:
        poor.close()
    for result, (overrides, error, reason) in zip(ended, cases, strict=True):
        assert reason in result.one_line, overrides
        assert result.code == error.exit_code  # type: ignore[attr-defined]
        assert [path for path in result.left if path != "outputs"] == []


@dataclass
class Away:
    """A chain behind a proxy that can take it away, and an undisturbed run on it to start over from.

    Attributes:
        whole: that run.
        overrides: of its configuration.
    """

    head: Head
    proxy: Proxy
    overrides: list[str]
    folder: Path
    whole: Run
    snapshot: str

    def start_over(self, name: str, **chain: object) -> tuple[Config, RunDirectory]:
        """The run as it was when its task had just been created, on the chain of that moment."""
        self.proxy.reset()
        assert self.proxy.ask("evm_revert", self.snapshot)
        self.snapshot = self.proxy.ask("evm_snapshot")
        path = self.folder / name / "day" / "time"
        shutil.copytree(self.whole.path, path, symlinks=True)
        for gone in ("records", "receipts", "chain", "adapter", "members"):
            shutil.rmtree(path / gone)
        for signed in path.glob("store/signed/*/[1-9]*"):  # that the members joined stays
            shutil.rmtree(signed)
        for made in ("records", "receipts"):
            (path / made).mkdir()
        for gone in ("summary.json", "report.html", "events.jsonl"):
            (path / gone).unlink()
        config = load_config(path)
        return replace(config, chain=replace(config.chain, **chain)), RunDirectory.open(path)

    def go_away_when_sent(self, settlement: int, lost: bool = False) -> None:
        """Take the chain away right after that settlement was handed in, or `lost` on its way."""

        def go_away(raw: bytes) -> None:
            if len(self.proxy.sent) == settlement:
                if lost:
                    self.proxy.on_send.append(("dropped", 0))
                self.proxy.outage = 10**9

        self.proxy.before_send = go_away

    def abandon(self, run: RunDirectory, epoch: int) -> None:
        """Let the deadline pass on the chain and have the creator abandon the epoch."""
        _, contracts, _ = run.read_task()
        task = bytes.fromhex(json.loads((run.path / "task.json").read_text())["task"][2:])
        self.proxy.ask("evm_increaseTime", 10**6)
        self.proxy.ask("evm_mine")
        data = contract("EpochSettlement").encode("abandon", task, epoch)
        sender = signer("creator").address
        self.proxy.ask("anvil_impersonateAccount", sender)
        call = {"from": sender, "to": contracts.settlement, "data": "0x" + data.hex()}
        sent = self.proxy.ask("eth_sendTransaction", call)
        wait_until(lambda: self.proxy.ask("eth_getTransactionReceipt", sent) is not None)
        assert self.proxy.ask("eth_getTransactionReceipt", sent)["status"] == "0x1"

    def come_back(self) -> None:
        self.proxy.before_send = lambda raw: None
        self.proxy.outage = 0


@pytest.fixture(scope="module")
def away(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    chain = chain_of("creator", "relayer", *MEMBERS)
    proxy = Proxy(chain.port, signer("relayer"), 0)
    snapshots: list[str] = []

    def remember(raw: bytes) -> None:
        if not snapshots and parse(raw).sender == signer("relayer").address:
            snapshots.append(proxy.ask("evm_snapshot"))

    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables("creator").items():
                patch.setenv(name, value)
            proxy.before_send = remember
            folder = tmp_path_factory.mktemp("away")
            overrides = [*place.base, f"chain.url={proxy.url}", "alliance.num_epochs=3", "alliance.max_unsettled=1",
                         "store.keep=all"]  # fmt: skip
            whole = place.head.run(folder / "whole", *overrides)
            yield Away(place.head, proxy, overrides, folder, whole, snapshots[0])
    finally:
        proxy.close()
        chain.close()


def test_a_chain_that_is_away_for_two_epochs_loses_nothing(away: Away) -> None:
    config, run = away.start_over("back")
    away.go_away_when_sent(2)
    output = io.StringIO()

    def back_when_the_run_waits() -> None:
        wait_until(lambda: "wait since" in output.getvalue())
        away.come_back()

    thread = threading.Thread(target=back_when_the_run_waits, daemon=True)
    thread.start()
    summary = run_alliance(config, run, make_plan(config), Console(output))
    thread.join()
    text = output.getvalue()
    waits = re.search(
        r"wait since \d\d:\d\d:\d\d for (the settlement of epoch 2|the chain): no answer from the RPC at 127", text
    )
    assert waits and waits.start() < text.index("epoch 2 settled: "), text
    if waits[1] != "the chain":  # it is asked before epoch 3, if it went before the run noted that epoch 1 is settled
        assert text.index("epoch 3 of 3: ") < waits.start()
    same_end(Run(run.path, summary), away.whole)


def play_while_abandoned(away: Away, name: str, *epochs: int) -> tuple[RunDirectory, dict[str, Any], str]:
    """The run, its summary and what it told, with these epochs abandoned while the chain is away."""
    config, run = away.start_over(name)
    away.go_away_when_sent(2, lost=True)
    output = io.StringIO()

    def abandon_when_the_run_waits() -> None:
        try:
            wait_until(lambda: "wait since" in output.getvalue())
            for epoch in epochs:
                away.abandon(run, epoch)
        finally:
            away.come_back()

    thread = threading.Thread(target=abandon_when_the_run_waits, daemon=True)
    thread.start()
    summary = run_alliance(config, run, make_plan(config), Console(output))
    thread.join()
    return run, summary, output.getvalue()


def test_an_epoch_that_was_abandoned_on_the_chain_is_given_up(away: Away) -> None:
    """Its settlement was lost with the chain; when the chain is back, epoch 3 runs again under another seed."""
    run, summary, output = play_while_abandoned(away, "abandoned", 2)
    assert "epoch 2 was abandoned on the chain" in output
    assert [epoch["epoch"] for epoch in summary["epochs"]] == [1, 3] and summary["run"]["abandoned_epochs"] == [2]
    records = Run(run.path, summary).records()
    assert sorted(records) == ["1.json", "3.json"] and records["1.json"] == away.whole.records()["1.json"]
    assert (run.path / "void" / "2" / "records" / "3.json").read_bytes() == away.whole.records()["3.json"]
    assert records["3.json"] != away.whole.records()["3.json"]
    lines: list[str] = []
    verify_run(RunFolder(run.path), "", away.proxy.url, lines.append)
    assert any("epoch 2    abandoned" in line for line in lines)
    for name in ("receipts/2.json", "records/3.json", "receipts/3.json"):  # as if nobody had abandoned anything
        shutil.copy(away.whole.path / name, run.path / name)
    shutil.copy(away.whole.path / "records" / "2.json", run.path / "records" / "2.json")
    with pytest.raises(VerificationError):
        verify_run(RunFolder(run.path), "", away.proxy.url, lines.append)


@pytest.mark.deep
def test_a_task_whose_last_epochs_were_abandoned_ends_with_what_was_settled(away: Away) -> None:
    run, summary, _ = play_while_abandoned(away, "ended", 2, 3)
    assert [epoch["epoch"] for epoch in summary["epochs"]] == [1] and summary["run"]["abandoned_epochs"] == [2, 3]
    assert summary["final_adapter_hash"] == away.whole.summary["epochs"][0]["adapter_hash"]
    for member in summary["members"]:
        assert member["balance_end_wei"] == member["balance_start_wei"] + member["earned_wei"]
    lines: list[str] = []
    verify_run(RunFolder(run.path), "", away.proxy.url, lines.append)
    assert any("epoch 3    abandoned" in line for line in lines)


@pytest.mark.deep
def test_a_chain_that_stays_away_ends_the_run_which_goes_on_later(away: Away) -> None:
    config, run = away.start_over("gone", outage_patience=1.0)
    away.go_away_when_sent(2)
    with pytest.raises(ChainUnreachableError, match=r"waited for 1 s \(chain\.outage_patience\); nothing is lost"):
        run_alliance(config, run, make_plan(config), Console(io.StringIO()))
    open_ = [json.loads((run.path / "receipts" / f"{epoch}.json").read_text()) for epoch in (2, 3)]
    assert [receipt["settlement"] for receipt in open_] == [None, None]
    away.come_back()
    same_end(Run(run.path, run_alliance(config, run, make_plan(config), Console(io.StringIO()))), away.whole)


def same_end(run: Run, whole: Run) -> None:
    """The same bytes are trained, each epoch is settled, everybody is paid the same."""
    assert run.hash == whole.hash and run.records() == whole.records()
    assert all(epoch["settlement_tx"] for epoch in run.summary["epochs"])
    ends = [[member["balance_end_wei"] for member in finished.summary["members"]] for finished in (run, whole)]
    assert ends[0] == ends[1]
    assert [event["epoch"] for event in run.events("settled")] == [1, 2, 3]
    assert leaked(run.path) == []
