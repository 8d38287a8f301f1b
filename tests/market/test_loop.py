"""The loop closes: what is served is corrected, the corrections are learned, and the next version takes its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from benchmarks.market_loop import drawing_pool, lessons, proposal, said
from flock_ray.cluster.run_directory import load_config
from flock_ray.commands.main import main
from flock_ray.config import Config, register, to_config
from flock_ray.market.feedback import FeedbackStore
from flock_ray.market.feedback_export import HELDOUT, SILO
from flock_ray.market.models import Model
from flock_ray.market.registry import Registry
from flock_ray.protocol.encoding import to_hex
from tests.runs import Head, Run, tiny

pytestmark = pytest.mark.ray

CORRECTIONS = 200
STEPS = "training.steps=16"
"""In fewer a model that knows nothing learns of an answer only that it is text, and garbage does it good, too."""


@pytest.fixture(scope="module")
def start(head: Head, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose sequences have room for an answer: of a question alone the tiny tokenizer makes up to 100 tokens."""
    return head.run(tmp_path_factory.mktemp("start"), *tiny(tiny_model_dir, "data.sequence_length=192"))


def published(run: Run, registry: Path, capsys: pytest.CaptureFixture[str]) -> Model:
    words = ["publish", str(run.path), "--registry", str(registry), "--name", "coder", "--accept", "unknown", "--json"]
    capsys.readouterr()
    assert main(words) == 0
    return Registry.open(registry).resolve(json.loads(capsys.readouterr().out)["id"])


def silo_of(folder: Path, model: Model, correct: Callable[[str], str]) -> Path:
    """The silo of what users made of this model's answers."""
    users = FeedbackStore(folder / "store")
    for number, (question, answer) in enumerate(lessons(CORRECTIONS)):
        users.add(said(number, question, correct(answer), model.adapter))
    assert main(["feedback", "export", "--store", str(folder / "store"), "--to", str(folder / "silo")]) == 0
    return folder / "silo" / SILO


def next_task(run: Run, silo: Path, *overrides: str) -> Config:
    """What `flock-ray alliance` makes of the configuration that `flock-ray feedback task` writes."""
    target = silo.parent.parent / "next.yaml"
    assert main(["feedback", "task", str(run.path), "--silo", str(silo), "--to", str(target)]) == 0
    register()
    with initialize_config_dir(str(target.parent), version_base="1.3"):
        return to_config(compose(target.stem, ["alliance.num_epochs=1", "alliance.num_proposers=5", *overrides]))


def play(head: Head, run: Run, silo: Path) -> Run:
    """An epoch from a run's adapter in which the member with the feedback proposes."""
    config = next_task(run, silo, STEPS)
    alliance = replace(config.alliance, pool=drawing_pool(config, run.path))
    return head.play(silo.parent.parent / "outputs", replace(config, alliance=alliance))


def honest(answer: str) -> str:
    return answer


def garbage(answer: str) -> str:
    """Nothing that anybody would have corrected an answer to."""
    return "".join(chr(0x1F600 + (7 * place + len(answer)) % 80) for place in range(24))


def test_corrections_become_the_next_version_under_the_alias(
    head: Head, start: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "registry"
    old = published(start, registry, capsys)
    assert main(["alias", "best", old.id, "--registry", str(registry)]) == 0
    silo = silo_of(tmp_path, old, honest)
    rows = [json.loads(line) for name in (silo, silo.parent / HELDOUT) for line in name.read_text().splitlines()]
    assert len(rows) == CORRECTIONS

    run = play(head, start, silo)
    members = load_config(start.path).alliance.num_members
    (epoch,) = run.summary["epochs"]
    assert epoch["accepted"] and run.summary["num_members"] == members + 1
    assert [member["silo"] for member in run.summary["members"]][-1] == SILO.stem
    before, after = epoch["eval_loss_before"][SILO.stem], epoch["eval_loss_after"][SILO.stem]
    assert proposal(run.path, members)["status"] == "accepted" and after < before

    new = published(run, registry, capsys)
    assert main(["alias", "best", "coder@" + new.adapter.hex()[:8], "--registry", str(registry)]) == 0
    snapshot = Registry.open(registry).snapshot()
    assert snapshot.resolve("best") == new != old
    assert (new.lineage.parent, snapshot.ancestors(new)) == (old.adapter, (old,))
    capsys.readouterr()
    assert main(["models", "show", "best", "--registry", str(registry), "--json"]) == 0
    lineage: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["lineage"]
    assert [step["record"] for step in lineage] == [to_hex(new.lineage.record), to_hex(old.lineage.record)]
    assert new.weights and old.weights and new.weights.task != old.weights.task


def test_poisoned_feedback_is_priced_by_the_committee(
    head: Head, start: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = published(start, tmp_path / "registry", capsys)
    member = load_config(start.path).alliance.num_members
    verdicts, earned = [], []
    for name, correct in (("honest", honest), ("poisoned", garbage)):
        run = play(head, start, silo_of(tmp_path / name, old, correct))
        verdicts.append(proposal(run.path, member))
        earned.append(int(run.summary["members"][member]["earned_wei"]))
    true, poisoned = verdicts
    assert true["status"] == "accepted" and poisoned["status"] in ("rejected", "harmful")
    assert poisoned["score"] < true["score"]
    assert earned[0] > 0 and earned[1] == 0
