"""A stranger enters a contest on an existing chain with `flock-ray arena submit`, and is ranked and paid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from flock_ray import arena_session
from flock_ray.chain.rpc import RpcNode
from flock_ray.cluster.strangers import Strangers
from flock_ray.commands.main import main
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from tests.contests import configure, overrides_of, play
from tests.jobs.test_existing_chain import TOKEN, chain_of, deploy, owned, signer, variables
from tests.runs import ROOT, Run, ray_head
from tests.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.anvil]

MEMBERS = [f"member-{number}" for number in range(8)]  # five validators, three training nodes
STRANGER = "node-7"
TASK_FILE, DAY_2 = "contest/*/task.json", "contest/*/2/0/day.json"
COMMITTED, OPENED = (f"contest/*/3/0/{kind}/*.json" for kind in ("commitment", "manifest"))
AHEAD = (10_000, 10_000, 3_700, 10_000)
"""Seconds that end day 1, day 2, day 3's window of commitments (an hour), and that of payloads."""


def flock_ray(*words: str, env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "flock_ray", *words],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@dataclass
class Clock:
    """The contest's clock: a window that is waited for ends once the stranger has done its part, however long it takes.

    Attributes:
        store: of the contest.
        entered: whether the stranger has entered on the chain; over: whether its command has ended.
    """

    store: Path
    entered: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    _ahead: float = 0.0
    _seen: int = 0

    def __call__(self) -> float:
        done = [self.entered.is_set(), *(any(self.store.glob(name)) for name in (DAY_2, COMMITTED, OPENED))]
        while self._seen < len(AHEAD) and done[self._seen]:
            self._ahead += AHEAD[self._seen]
            self._seen += 1
        self._ahead += 100_000 * self.over.is_set()
        return time.time() + self._ahead


@dataclass
class Played:
    """The contest, what the stranger's command told, and how it ended."""

    run: Run
    store: Path
    url: str
    contracts: dict[str, str]
    output: str
    errors: str
    code: int

    @property
    def task(self) -> str:
        return str(self.run.summary["task_id"])


@pytest.fixture(scope="module")
def played(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("open")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables("creator", "relayer", *MEMBERS).items():
            patch.setenv(name, value)
        chain = chain_of("creator", "relayer", *MEMBERS, STRANGER)
        try:
            names = ["creator", *MEMBERS, STRANGER]
            contracts = deploy(chain.url, [(signer(name).address, 6_000 * TOKEN) for name in names])
            with ray_head() as head, swept(chain.url):
                yield _play(head, chain.url, contracts, tiny_model_dir, folder, patch)
        finally:
            chain.close()


@contextmanager
def swept(url: str) -> Iterator[None]:
    """A block now and then: of many transactions at once anvil leaves one lying at times (foundry-rs/foundry#10122)."""
    ended = threading.Event()

    def mine() -> None:
        with closing(RpcNode(url)) as node:
            while not ended.wait(10):
                node._request("evm_mine", [])

    thread = threading.Thread(target=mine)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _play(head: Any, url: str, contracts: list[str], model: Path, folder: Path, patch: pytest.MonkeyPatch) -> Played:
    config = configure(
        *overrides_of(
            model, folder, "chain=rpc", f"chain.url={url}", *contracts, "contest.open=true", "contest.nodes=3",
            "contest.days=3", "contest.parameters.top_nodes=4",
            "adversary.members=null", "cluster.nodes=1", f"store.url={folder / 'store'}",
        )
    )  # fmt: skip
    clock, ended = Clock(folder / "store"), list[Any]()
    patch.setattr(arena_session, "Strangers", partial(Strangers, clock=clock))
    at = dict(word.removeprefix("chain.").split("=") for word in contracts)

    def stranger() -> None:
        wait_until(lambda: any((folder / "store").glob(TASK_FILE)))
        [posted] = (folder / "store").glob(TASK_FILE)
        adapter = _adapter(model, folder)
        process = flock_ray(
            "arena", "submit", f"task={posted.parent.name}", f"adapter={adapter}", f"store={folder / 'store'}",
            f"rpc={url}", f"contracts={at['settlement']}", f"key={STRANGER}", f"records={folder / 'signed'}",
            env=variables(STRANGER), cwd=folder,
        )  # fmt: skip
        told = []
        assert process.stdout
        for line in process.stdout:
            told.append(line)
            if line.startswith("Day 1 runs"):
                clock.entered.set()
        assert process.stderr
        ended.append(("".join(told), process.stderr.read(), process.wait(PATIENCE)))
        clock.over.set()

    thread = threading.Thread(target=stranger)
    thread.start()
    try:
        run = play(head, folder / "outputs", config)
    finally:
        clock.over.set()
        thread.join(PATIENCE)
    output, errors, code = ended[0]
    return Played(run, folder / "store", url, run.summary["chain"]["contracts"], output, errors, code)


def _adapter(model: Path, folder: Path, seed: int = 7) -> Path:
    """A LoRA folder as PEFT saves it, of the model that the contest is about."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    options = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), options).save_pretrained(folder / "mine")
    return folder / "mine"


def test_the_stranger_is_told_each_step(played: Played) -> None:
    assert (played.code, played.errors) == (0, "")
    starts = ["is taken: payload", "Entered with 1000 tokens", "Day 1 runs", "Committed on day 3",
              "Opened on day 3: 9 of", "Day 3: ranked"]  # fmt: skip
    places = [played.output.index(start) for start in starts]
    assert places == sorted(places)


def test_the_stranger_is_ranked_and_paid(played: Played) -> None:
    days, account = played.run.summary["days"], signer(STRANGER).address
    assert [len(day["submissions"]) for day in days] == [3, 3, 4]
    [own] = [one for one in days[2]["submissions"] if one["account"] == account]
    assert own["payload"] in played.output and own["rank"] and own["reward"] > 0
    money = played.run.summary["members"][8]
    assert (money["account"], money["role"], money["balance_start"]) == (account, "node", 1_000 * TOKEN)
    assert money["earned"] > 0
    # its stake stays locked in the vault until it has it released; the creator's claim paid its wallet
    assert owned(played.url, played.contracts, account) == 6_000 * TOKEN + money["earned"]


def test_everybody_can_verify_the_contest(played: Played) -> None:
    told: list[str] = []
    verify_run(RunFolder(played.run.path, str(played.store)), "", played.url, told.append)
    assert any(line.startswith("day 3") and "4 submissions" in line for line in told)


def test_the_states_of_submissions_are_told_for_each_day(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    def states(*words: str) -> list[dict[str, Any]]:
        assert main(["arena", "status", *words, "--json"]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["submissions"]
        return found

    account, store = signer(STRANGER).address, f"store={played.store}"
    [last] = states(f"contest={played.task}", store, f"account={account}")
    assert (last["day"], last["node"], last["next_state_at"]) == (3, 8, 0) and last["state"].startswith("ranked")
    assert len(states(f"contest={played.task}", store, "day=1")) == 3
    for day in (1, 2, 3):
        known = {(one["node"], one["state"]) for one in states(f"contest={played.task}", store, f"day={day}")}
        assert known == {(one["node"], one["state"]) for one in states(f"contest={played.run.path}", f"day={day}")}


def test_who_cannot_submit_is_told_why(played: Played, tiny_model_dir: Path, tmp_path: Path) -> None:
    settlement, adapter = played.contracts["settlement"], played.store.parent / "mine"
    empty = tmp_path / "empty"
    empty.mkdir()

    def refused(**changes: str) -> tuple[int, str]:
        words = {
            "task": played.task, "adapter": str(adapter), "store": str(played.store), "rpc": played.url,
            "contracts": settlement, "key": STRANGER, "records": str(tmp_path / "signed"), **changes,
        }  # fmt: skip
        command = flock_ray(
            "arena", "submit", *(f"{name}={value}" for name, value in words.items()), cwd=tmp_path,
            env=variables(STRANGER, "member-0", "member-6", "node-9"),
        )  # fmt: skip
        output, errors = command.communicate(timeout=PATIENCE)
        assert len(errors.splitlines()) == 1 and errors.startswith("error: "), output + errors
        return command.returncode, errors

    for changes, code, text in (
        ({"task": "0x" + "12" * 32}, 60, "has nothing of contest 0x1212"),
        ({"task": "12"}, 10, "neither the id of a task"),
        ({"store": str(empty)}, 60, "has nothing of contest"),
        ({"adapter": str(tmp_path)}, 23, "has no adapter_config.json"),
        ({"key": "node-9"}, 40, "is closed; nodes enter while it runs"),
        ({"key": "member-0"}, 40, "is a validator of this contest"),
        ({"contracts": played.contracts["token"]}, 40, "EpochSettlement"),
        ({"adapter": str(_adapter(tiny_model_dir, tmp_path, 8))}, 50, "committed to another adapter on day 3"),
    ):
        ended, line = refused(**changes)
        assert ended == code and text in line, (changes, ended, line)
