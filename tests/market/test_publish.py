"""From a verified run to an entry of a registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from flock_ray.commands.main import main
from flock_ray.errors import ModelError, RegistryError, RunDirectoryError, VerificationError
from flock_ray.lora.peft_io import ALL_LINEAR, adapter_shapes
from flock_ray.lora.serialization import rank_of
from flock_ray.market.models import Model
from flock_ray.market.publish import SPLIT
from flock_ray.market.registry import Registry
from flock_ray.protocol.encoding import from_hex, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.serving.adapters import Library
from flock_ray.verify.report import SigningDomain, merkle_root
from tests.runs import Run

pytestmark = pytest.mark.ray

UNKNOWN = ("--accept", "unknown")  # the tiny model's folder names no licence
ADDRESS = "0x" + "00" * 19 + "09"
Publish = Callable[..., Model]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def publish(folder: Path, capsys: pytest.CaptureFixture[str]) -> Publish:
    def type_(run: Path, *words: str) -> Model:
        assert main(["publish", str(run), "--registry", str(folder), *UNKNOWN, *words, "--json"]) == 0
        output, errors = capsys.readouterr()
        assert errors == ""
        return Registry.open(folder).resolve(json.loads(output)["id"])

    return type_


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The line that a command ends with, which leaves nothing."""

    def type_(run: Path, *words: str, code: type[Exception]) -> str:
        assert main(["publish", str(run), "--registry", str(folder), *words, "--json"]) == code.exit_code  # type: ignore[attr-defined]
        output, errors = capsys.readouterr()
        assert output == "" and len(errors.splitlines()) == 1 and not folder.exists()
        return errors.removeprefix("error: ").rstrip("\n")

    return type_


def task_of(run: Run) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run.path / "task.json").read_text())
    return value


def domain_of(task: dict[str, Any]) -> SigningDomain:
    at = {name: bytes.fromhex(text[2:]) for name, text in task["contracts"].items()}
    return SigningDomain(task["chain_id"], at["settlement"], at["distributor"])


def test_what_a_run_trained_is_served_with_its_lineage(
    whole_run: Run, publish: Publish, folder: Path, tiny_model_dir: Path
) -> None:
    model, task = publish(whole_run.path, "--price-prompt", "2", "--price-output", "6"), task_of(whole_run)
    terms, lineage = task["terms"], model.lineage
    accepted = [epoch["epoch"] for epoch in whole_run.summary["epochs"] if epoch["accepted"]]
    assert to_hex(model.adapter) == whole_run.hash
    assert (model.name, model.context_length) == ("model", 512)
    assert (to_hex(model.base), to_hex(model.tokenizer)) == (terms["base_model"], terms["tokenizer"])
    assert (model.lora.rank, model.lora.alpha, model.lora.scaling) == (8, 16, 2.0)
    assert "q_proj" in model.lora.target_modules
    assert (lineage.kind, lineage.epoch, lineage.parent, lineage.submitter) == ("alliance", accepted[-1], None, None)
    assert lineage.record == sha256((whole_run.path / "records" / f"{lineage.epoch}.json").read_bytes())
    assert (lineage.chain_id, to_hex(lineage.task)) == (task["chain_id"], task["task"])
    assert (model.price.prompt, model.price.output, model.split) == (2 * 10**12, 6 * 10**12, SPLIT)
    assert to_hex(model.owner) == to_hex(model.host) == task["creator"].lower()
    assert model.licences.parts == ("unknown", "psf-2.0", "unknown")

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    library = Library(adapter_shapes(base, [ALL_LINEAR], 8), 8)
    assert library.add(Registry.open(folder).source(model)) == model.adapter, "an engine takes it"


def test_members_are_paid_by_what_the_last_report_says_they_earned(whole_run: Run, publish: Publish) -> None:
    weights, task = publish(whole_run.path).weights, task_of(whole_run)
    assert weights
    earned = {member["address"].lower(): int(member["earned_wei"]) for member in whole_run.summary["members"]}
    assert {to_hex(account): wei for account, wei in weights.rewards.items()} == {a: w for a, w in earned.items() if w}
    domain = domain_of(task)
    assert (weights.chain_id, weights.distributor) == (domain.chain_id, domain.distributor)
    leaves = [domain.leaf(weights.task, to_hex(account), wei) for account, wei in weights.rewards.items()]
    last = max(whole_run.path.glob("receipts/*.json"), key=lambda path: int(path.stem))
    assert to_hex(merkle_root(leaves)) == json.loads(last.read_text())["report"]["rewards_root"]


def test_any_accepted_epoch_may_be_published(
    whole_run: Run, publish: Publish, refused: Callable[..., str], folder: Path
) -> None:
    accepted = [epoch["epoch"] for epoch in whole_run.summary["epochs"] if epoch["accepted"]]
    assert "gave no new adapter; its accepted epochs are" in refused(whole_run.path, "--epoch", "9", code=RegistryError)
    assert "have one adapter each, and no places" in refused(whole_run.path, "--place", "1", code=RegistryError)
    models, adapters = list[Model](), list[str]()
    for epoch in accepted:
        adapter = json.loads((whole_run.path / f"records/{epoch}.json").read_text())["adapter"]
        if (whole_run.path / "store" / adapter[2:4] / adapter[2:]).is_file():
            models.append(publish(whole_run.path, "--epoch", str(epoch)))
            adapters.append(adapter)
        else:  # pruned
            told = refused(whole_run.path, "--epoch", str(epoch), code=VerificationError)
            assert f"of epoch {epoch}, is not in the store" in told
    assert models and [to_hex(model.adapter) for model in models] == adapters
    assert publish(whole_run.path) == models[-1], "once more changes nothing"
    assert len(Registry.open(folder).models()) == len(models)


def test_how_it_is_listed_may_be_chosen(whole_run: Run, publish: Publish) -> None:
    model = publish(
        whole_run.path, "--name", "coder", "--owner", ADDRESS, "--split", "50,0,50,0", "--context", "128",
        "--licence-base", "Apache-2.0", "--licence-data", "llama3.2", "--accept", "llama3.2",
    )  # fmt: skip
    assert (model.name, model.context_length) == ("coder", 128)
    assert to_hex(model.owner) == to_hex(model.host) == ADDRESS
    assert (model.split.members, model.offer.weights) == (0, bytes(32))
    assert model.licences.parts == ("apache-2.0", "llama3.2", "llama3.2"), "an adapter binds as what it is made of"


def test_nothing_is_served_whose_run_does_not_hold(whole_run: Run, refused: Callable[..., str], tmp_path: Path) -> None:
    forged = shutil.copytree(whole_run.path, tmp_path / "forged", ignore=shutil.ignore_patterns("members"))
    record = json.loads((forged / "records" / "2.json").read_text())
    record["pool_left"] += 1
    (forged / "records" / "2.json").write_text(json.dumps(record))
    told = refused(forged, *UNKNOWN, code=VerificationError)
    assert "is not published, since it does not hold: epoch 2 record.pool_left: claimed " in told
    told = refused(whole_run.path, *UNKNOWN, "--anchor", "11" * 32, code=VerificationError)
    assert "anchor of the run" in told
    (forged / "summary.json").unlink()
    assert "unfinished run" in refused(forged, *UNKNOWN, code=RunDirectoryError)


def test_an_adapter_that_is_gone_or_another_is_not_served(
    whole_run: Run, refused: Callable[..., str], tmp_path: Path
) -> None:
    copy = shutil.copytree(whole_run.path, tmp_path / "copy", ignore=shutil.ignore_patterns("members"))
    blob = copy / "store" / whole_run.hash[2:4] / whole_run.hash[2:]
    blob.unlink()
    assert whole_run.hash in refused(copy, *UNKNOWN, code=VerificationError)


def test_another_base_model_is_refused(
    whole_run: Run, refused: Callable[..., str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_model_dir, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 20}))
    told = refused(whole_run.path, *UNKNOWN, "--model", str(other), code=ModelError)
    assert "is another base model than that of the run: its config.json" in told
    told = refused(whole_run.path, *UNKNOWN, "--model", str(tmp_path), code=ModelError)
    assert "name the folder of the run's base model with --model DIR" in told
    told = refused(whole_run.path, *UNKNOWN, "--context", "513", code=RegistryError)
    assert "more than the 512 tokens" in told


def test_a_licence_that_nobody_knows_is_accepted_by_name(whole_run: Run, refused: Callable[..., str]) -> None:
    told = refused(whole_run.path, code=RegistryError)
    assert told.endswith("accept it with --accept 'unknown'")


def test_a_folder_of_something_else_is_told_before_anything_is_verified(
    whole_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").touch()
    assert main(["publish", str(whole_run.path), "--registry", str(tmp_path), *UNKNOWN]) == RegistryError.exit_code
    output, errors = capsys.readouterr()
    assert output == "" and "not empty: it holds thesis.txt" in errors


def test_what_was_checked_is_told(whole_run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", str(whole_run.path), "--registry", str(folder), *UNKNOWN]) == 0
    output = capsys.readouterr().out
    model = Registry.open(folder).models()[0]
    assert f"anchor     {to_hex(model.lineage.anchor)}" in output
    assert output.splitlines()[-1] == f"Published {model.id} under unknown in {folder}"


# Contests


def test_places_of_a_contest_are_served(
    whole_contest: Run, publish: Publish, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_of(whole_contest)
    last = max(whole_contest.path.glob("records/*.json"), key=lambda path: int(path.stem))
    record = json.loads(last.read_text())
    order = record["final_ranking"] or record["ranking"]
    paid = order[: task["terms"]["mechanism_parameters"]["top_nodes"]]
    payloads = {one["member"]: one["payload"] for one in record["submissions"]}
    accounts = [row[0].lower() for row in task["members"]]
    assert len(paid) > 1
    for place in (1, len(paid)):
        model = publish(whole_contest.path, "--place", str(place), "--accept", "unknown")
        node = paid[place - 1]
        assert to_hex(model.adapter) == payloads[node]
        assert model.lineage.submitter and to_hex(model.lineage.submitter) == accounts[node]
        assert (model.lineage.kind, model.lineage.epoch) == ("contest", int(last.stem))
        assert model.lineage.record == sha256(last.read_bytes())
        assert model.lora.rank == model.lora.alpha == rank_of(Registry.open(folder).adapter(model))
        assert model.weights
    assert publish(whole_contest.path, "--accept", "unknown").lineage.submitter == from_hex(accounts[paid[0]], 20)
    words = ["publish", str(whole_contest.path), "--registry", str(folder), *UNKNOWN, "--json"]
    for asked, told in (
        (["--place", str(len(paid) + 1)], f"paid the places 1 to {len(paid)}, not"),
        (["--epoch", "99"], "day 99 of the contest ranked no submission"),
    ):
        assert main([*words, *asked]) == RegistryError.exit_code
        assert told in capsys.readouterr().err


def test_members_of_a_contest_are_its_nodes_and_validators(whole_contest: Run, publish: Publish) -> None:
    weights = publish(whole_contest.path, "--accept", "unknown").weights
    earned = {one["account"].lower(): one["earned"] for one in whole_contest.summary["members"] if one["earned"]}
    assert weights and {to_hex(account): wei for account, wei in weights.rewards.items()} == earned
