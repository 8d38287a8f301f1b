"""Many members: what joining and being paid takes, an epoch of ten thousand, members that come and go, memory.

Joins and claims go through the driver's own ledger and its chain actor on an anvil of the run; only the node groups are
stood in for: all members sign in this process. Everything else is whole runs.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, linear_regression
from types import SimpleNamespace
from typing import Any

import psutil
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.common import ROOT, environment, step, store, tell
from flock_ray.chain.anvil import find_anvil
from flock_ray.chain.eip712 import Domain, report_digest
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.cluster.attestation import Attestation
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.cluster.launch import chain_terms, terms_of
from flock_ray.cluster.member import hash_chain
from flock_ray.cluster.phases import Phases
from flock_ray.cluster.placement import make_plan
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.runtime import ray_cluster
from flock_ray.cluster.spec import with_model
from flock_ray.cluster.worker import Worker
from flock_ray.config import (
    AllianceConfig,
    ChainBackend,
    ChainConfig,
    ClusterConfig,
    Config,
    DataConfig,
    LoraConfig,
    ModelConfig,
    TrainingConfig,
)
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.state import TaskState
from flock_ray.session import run_alliance
from flock_ray.telemetry.table import Console
from flock_ray.training.model import ModelHashes

NUM_MEMBERS, QUICK_MEMBERS = 10_000, 200
NUM_EPOCHS, QUICK_EPOCHS = 200, 20
NUM_ROWS = 64  # of a silo
SETTLED = 0.5  # part of the epochs after which memory counts
TARGETS = {
    "joins_and_leaves_followed": 4,
    "joins_10000_seconds": 600,
    "rss_slope_mb_per_100_epochs": 1,
}
_ADAPTER = keccak(b"adapter")
_WORDS = "the alliance trains small models on private rows and votes on what each adapter gains".split()  # noqa: SIM905
SMALL = (
    "model.dtype=float32", "data.sequence_length=64", "data.heldout_tokens=512", "training.steps=4",
    "training.batch_size=2", "training.learning_rate=0.001", "adversary=none", "chain=none", "cluster.nodes=1",
)  # fmt: skip


class Members(Phases):
    """All members of a run, in one process: what `ChainLedger` asks of the node groups."""

    def __init__(self, config: Config) -> None:
        """Derive their keys."""
        self.config = config
        owners_of = range(config.alliance.num_members + config.alliance.candidates)
        self.signers = {silo: run_signer(config.seed, f"member-{silo}") for silo in owners_of}
        hashes = ModelHashes(keccak(b"weights"), keccak(b"config.json"), keccak(b"tokenizer"))
        terms = terms_of(config)
        self.terms = with_model(terms, run_signer(config.seed, "creator").address, hashes, _ADAPTER)
        owners = {silo: SimpleNamespace(silo=silo, signer=signer) for silo, signer in self.signers.items()}
        for owner in owners.values():
            owner.hash_chain = self._chain_of(owner.signer)
        self._host = SimpleNamespace(
            _spec=SimpleNamespace(terms=terms, chain_terms=chain_terms(config, terms), index=0),
            _hashes=hashes,
            _adapter=_ADAPTER,
            _hosting=SimpleNamespace(owners=owners, join=lambda task, silos: None),
        )
        self._host._agreed = partial(Worker._agreed, self._host)
        self._host._joins = partial(Worker._joins, self._host)

    def _chain_of(self, signer: Signer) -> Callable[[bytes], Any]:
        return lambda task: hash_chain(signer, task, self.config.alliance.num_epochs)

    @property
    def accounts(self) -> dict[int, str]:
        """{silo: address}."""
        return {silo: signer.address for silo, signer in self.signers.items()}

    def take_up(self, state: TaskState, domain: Domain) -> None:
        """Take up a task."""
        self._host._state, self._host._domain = state, domain

    def run(self, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        """The answer of the only node group."""
        yield 0, getattr(Worker, method)(self._host, *args)

    def place(self, task: RunningTask) -> None:
        """They stay."""

    def resume_from(self, task: RunningTask) -> None:
        """They are not lost."""

    def epoch_signed(self) -> None:
        """They do not fail."""


def settle_everything(ledger: ChainLedger, members: Members, state: TaskState) -> TaskState:
    """Settle the only epoch, in which all members earn the same; the state after it."""
    share = members.terms.pool // len(state.members)
    task, domain, voters = state.scope.task, ledger.domain, state.roles.voters
    leaves = tuple((member.account, share) for member in state.members)
    tree = MerkleTree(reward_leaf(domain, task, *leaf) for leaf in leaves)
    report = Report(
        task=task,
        epoch=state.epoch,
        previous_report=bytes(32),
        seed=state.seed,
        reveals_digest=keccak(b"reveals"),
        rewards_root=tree.root,
        rewards_total=share * len(leaves),
        slashes=(),
        model_hash=keccak(b"model"),
        record_hash=keccak(b"record"),
        relayer=ledger.relayer,
    )
    digest = report_digest(domain, report)
    signatures = {voter: members.signers[voter].sign_digest(digest) for voter in voters}
    record: Any = SimpleNamespace(roles=state.roles, leaves=leaves)
    ledger.settle(state, record, Attestation(b"", report, signatures))
    for _ in ledger.settled(0):
        pass
    earned = tuple(replace(member, earned=share) for member in state.members)
    return replace(state, members=earned, epoch=state.epoch + 1)


def joins_and_claims(num_members: int, folder: Path) -> dict[str, float]:
    """Wall seconds in which all members stake and join, and in which all claim and have their stakes released."""
    alliance = AllianceConfig(num_members=num_members, hosts=1, num_epochs=1, num_proposers=1)
    config = Config(seed=1, alliance=alliance, chain=ChainConfig(backend=ChainBackend.anvil))
    with ray_cluster(ClusterConfig()):
        members = Members(config)
        ledger = ChainLedger(config, folder, members.accounts)
        ledger.tell = tell
        with step(f"contracts, and tokens for {num_members:,} members"):
            ledger.deploy()
        began = time.perf_counter()
        with step(f"{num_members:,} members join"):
            state = ledger.create_task(members.terms, members)
        joined = time.perf_counter() - began
        with step("the only epoch is settled"):
            members.take_up(state, ledger.domain)
            state = settle_everything(ledger, members, state)
        began = time.perf_counter()
        with step(f"{num_members:,} members are paid and get their stakes"):
            ledger.pay_out(state, members)
        paid = time.perf_counter() - began
        assert set(ledger.balances(state).values()) == {members.terms.min_stake + members.terms.pool // num_members}
    return {"joins_10000_seconds": joined, "claims_10000_seconds": paid}


def write_model(folder: Path) -> Path:
    """A two-layer Llama with random weights, and a tokenizer of the rows' words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = ["<pad>", "<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_WORDS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = "{% for one in messages %}<s>{{ one['role'] }} {{ one['content'] }}</s>{% endfor %}"
    fast.save_pretrained(folder)
    shape = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(fast), max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


def write_rows(folder: Path, num_silos: int) -> str:
    """A file of short conversations for each silo; the glob that finds them."""
    folder.mkdir(parents=True)
    for silo in range(num_silos):
        draw = random.Random(silo)
        rows = [
            {"conversations": [{"role": "user", "content": " ".join(draw.choices(_WORDS, k=4))},
                               {"role": "assistant", "content": " ".join(draw.choices(_WORDS, k=6))}]}
            for _ in range(NUM_ROWS)
        ]  # fmt: skip
        (folder / f"{silo:05}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(folder / "*.jsonl")


def many(folder: Path, num_members: int, **alliance: Any) -> Config:
    """A run of so many members, of whom an epoch draws some."""
    return Config(
        seed=1,
        model=ModelConfig(source="folder", path=str(write_model(folder / "model")), dtype="float32"),
        data=DataConfig(
            kind="jsonl", path=write_rows(folder / "rows", num_members), heldout_tokens=256, heldout_fraction=0.3
        ),
        lora=LoraConfig(rank=4, alpha=8),
        training=TrainingConfig(steps=1, batch_size=1),
        alliance=AllianceConfig(
            num_members=num_members, hosts=2, max_unsettled=1, evaluate="drawn", band_floor=1, band_ceiling=10,
            force=True, **alliance,
        ),
        cluster=ClusterConfig(nodes=1),
    )  # fmt: skip


def random_model(folder: Path, num_silos: int) -> tuple[str, ...]:
    """Overrides for the model of `write_model` and rows of its words."""
    model, rows = write_model(folder / "model"), write_rows(folder / "rows", num_silos)
    few = "data.heldout_sequences=1"  # rows that mean nothing: nobody reads their scores
    return "model=folder", f"model.path={model}", "data=jsonl", f"data.path={rows}", few


def epoch_of_many(quick: bool, folder: Path) -> dict[str, Any]:
    """Wall seconds of an epoch with 64 proposers and 13 voters among all members, and where they go."""
    num_members = QUICK_MEMBERS if quick else NUM_MEMBERS
    config = many(folder, num_members, num_voters=13, num_proposers=64, num_epochs=3)
    config.chain.backend = ChainBackend.none if quick else ChainBackend.anvil
    began = time.perf_counter()
    with step(f"3 epochs of {num_members:,} members, chain {config.chain.backend.value}"):
        run = RunDirectory.create(folder / "outputs", config)
        summary = run_alliance(config, run, make_plan(config), Console(io.StringIO()))
    seconds = [sum(value for kind, value in epoch["wall_seconds"].items() if kind != "load")
               for epoch in summary["epochs"]]  # fmt: skip
    split = {
        kind: fmean(epoch["wall_seconds"].get(kind, 0.0) for epoch in summary["epochs"][1:])
        for kind in summary["epochs"][-1]["wall_seconds"]
    }
    return {
        "epoch_seconds_10000_members": fmean(seconds[1:]),
        "run_seconds_10000_members": time.perf_counter() - began,
        "epoch_split_10000_members": split,
    }


def memory(quick: bool, folder: Path) -> dict[str, Any]:
    """How much all processes of a run grow in the second half of its epochs, MB per 100 epochs."""
    num_epochs = QUICK_EPOCHS if quick else NUM_EPOCHS
    config = many(folder, 32, num_voters=7, num_proposers=8, num_epochs=num_epochs)
    config.chain.backend = ChainBackend.anvil
    run, samples, ended = RunDirectory.create(folder / "outputs", config), list[tuple[int, float]](), threading.Event()

    def sample() -> None:
        while not ended.wait(0.5):
            samples.append((run.num_signed, resident_mb()))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        with step(f"{num_epochs} epochs of 32 members on an anvil"):
            run_alliance(config, run, make_plan(config), Console(io.StringIO()))
    finally:
        ended.set()
        sampler.join()
    late = [(epoch, mb) for epoch, mb in samples if SETTLED * num_epochs <= epoch < num_epochs]
    slope = linear_regression(*zip(*late, strict=True)).slope
    return {
        "rss_slope_mb_per_100_epochs": 100 * slope,
        "rss_mb": late[-1][1],
        "rss_samples": [late[index] for index in range(0, len(late), max(1, len(late) // 50))],
    }


def resident_mb() -> float:
    """Resident memory of this process and of the run's actors, without Ray's services and the chain's binary."""
    here = psutil.Process()
    total = here.memory_info().rss
    for child in here.children(recursive=True):
        try:
            if child.name().startswith("ray::"):
                total += child.memory_info().rss
        except psutil.Error:  # it ended
            continue
    return total / 1e6


def job(name: str, *arguments: str) -> str:
    """What a job prints."""
    command = [sys.executable, str(ROOT / "jobs" / name), *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {name} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def comings_and_goings(quick: bool, folder: Path) -> dict[str, Any]:
    """Two owners join a running task and two members leave it on an anvil; counted if the run verifies."""
    with step("a run whose members come and go, and its verification"):
        job(
            "alliance.py", f"output_dir={folder}", *SMALL, *random_model(folder, 10), "chain=anvil",
            "alliance.num_epochs=7",
            "alliance.max_unsettled=1", "alliance.candidates=2",
            "alliance.joins=[{epoch:1,silos:[9]},{epoch:2,silos:[8]}]",
            "alliance.leaves=[{epoch:1,silos:[0]},{epoch:3,silos:[1]}]", "training.steps=1", "data.heldout_tokens=256",
        )  # fmt: skip
        run = (folder / "latest").resolve()
        verified = "Everything that can be checked holds" in job("verify.py", str(run))
    changes = [
        change for epoch in range(1, 8) for change in json.loads((run / f"records/{epoch}.json").read_text())["changes"]
    ]
    return {"joins_and_leaves_followed": len(changes) if verified else 0}


def feedback(quick: bool, folder: Path) -> dict[str, Any]:
    """The part of dense updates' gain that bfloat16 with error feedback loses, and the bytes of an update."""
    gains, sizes = {}, {}
    model = (*random_model(folder, 8), "data.heldout_tokens=256") if quick else ()
    for name in ("dense", "bf16_feedback"):
        with step(f"{2 if quick else 10} epochs with wire_format={name}"):
            epochs = f"alliance.num_epochs={2 if quick else 10}"
            job("alliance.py", f"output_dir={folder / name}", *SMALL, *model, f"wire_format={name}", epochs)
        run = (folder / name / "latest").resolve()
        told = json.loads((run / "summary.json").read_text())["epochs"]
        before, after = told[0]["eval_loss_before"].values(), told[-1]["eval_loss_after"].values()
        gains[name] = fmean(before) - fmean(after)
        trained = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines() if '"trained"' in line]
        sizes[name] = fmean(event["payload_bytes"] for event in trained)
    return {
        "bytes_bf16_feedback_lost_gain": 1 - gains["bf16_feedback"] / gains["dense"],
        "bytes_bf16_feedback_ratio": sizes["bf16_feedback"] / sizes["dense"],
        "gain_nats": gains,
    }


def joins(quick: bool, folder: Path) -> dict[str, Any]:
    """See `joins_and_claims`."""
    return dict(joins_and_claims(QUICK_MEMBERS if quick else NUM_MEMBERS, folder))


PARTS: dict[str, Callable[[bool, Path], dict[str, Any]]] = {
    part.__name__: part for part in (comings_and_goings, joins, epoch_of_many, memory, feedback)
}


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store. Takes no overrides."""
    if overrides:
        raise SystemExit("error: membership takes no overrides")
    if find_anvil() is None:
        sys.exit("members join on an anvil: npm install in contracts/ brings one")
    before = environment()
    figures: dict[str, Any] = {}
    for name, part in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            figures |= part(quick, Path(folder) / name)
    headline = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
    result = {
        "environment": before,
        "members": QUICK_MEMBERS if quick else NUM_MEMBERS,
        "targets": TARGETS,
        "figures": figures,
        "headline": headline,
    }
    store("membership", result, quick)
    for name, value in headline.items():
        tell(f"{name}: {value:.4g}")
