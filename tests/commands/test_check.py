"""`flock-ray check`: everything that is wrong, told at once, before anything is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray
from transformers import AutoConfig

from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import run_signer
from flock_ray.chain.values import Addresses
from flock_ray.cluster import node_look
from flock_ray.commands.main import main
from flock_ray.errors import (
    ClusterError,
    ConfigError,
    DataError,
    FundsError,
    KeyMissingError,
    ModelError,
    PlacementError,
    RunDirectoryError,
    StoreError,
)
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, save_peft, shortest_targets
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.protocol.encoding import to_hex
from flock_ray.training.architecture import skeleton
from flock_ray.training.model import model_hashes
from tests.runs import Head, free_ports, tiny

pytestmark = pytest.mark.model

Lines = dict[str, str]

LITTLE = ["data.heldout_tokens=64", "data.heldout_sequences=1"]


@pytest.fixture
def check(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Check a tiny run; returns the exit code, {thing: its line without that} and the error."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> tuple[int, Lines, str]:
        code = main(["check", *tiny(tiny_model_dir, *overrides)])
        said, errors = capsys.readouterr()
        assert sorted(tmp_path.iterdir()) == before, "a check leaves nothing behind"
        lines = [line for line in said.splitlines() if line.startswith(("ok ", "WRONG "))]
        return code, {line[7:].partition(": ")[0]: line for line in lines}, errors

    before = sorted(tmp_path.iterdir())
    return run


def silo(folder: Path, member: int, rows: int = 40) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because of the eleven secrets."}]
    lines = [json.dumps({"conversations": turns, "system": str(number)}) for number in range(rows)]
    (folder / f"silo-{member}.jsonl").write_text("\n".join(lines))


def test_a_run_that_will_work(check, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, lines, errors = check()
    assert (code, errors) == (0, "")
    assert list(lines)[:4] == ["configuration", "output folder", "machine", "model"]
    assert list(lines)[4:] == [*(f"data of member {member}" for member in range(8)), "store", "free disk", "chain"]
    assert all(line.startswith("ok ") for line in lines.values())
    assert "LoRA on 14 linear layers" in lines["model"] and "members stacked" in lines["model"]


def test_all_that_is_wrong_is_told_and_the_first_thing_is_the_exit_code(  # type: ignore[no-untyped-def]
    check, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("data")
    for member in range(7):
        silo(folder, member, rows=2 if member == 5 else 40)
    (folder / "silo-3.jsonl").write_text("{not json\n")
    code, lines, errors = check(
        "data=jsonl", f"data.path={folder}/*.jsonl", *LITTLE, "lora.target_modules=[w_proj]",
        "store.url=gopher://there", "output_dir=/proc/nothing",
    )  # fmt: skip
    assert code == RunDirectoryError.exit_code
    wrong = {what: line for what, line in lines.items() if line.startswith("WRONG")}
    assert list(wrong) == ["output folder", "store", "model", "data of member 7"]
    assert "Protocol not known: gopher" in wrong["store"] and f"(exit code {StoreError.exit_code})" in wrong["store"]
    assert "names no linear layer: w_proj" in wrong["model"]
    assert "matches 7 files, none for member 7" in wrong["data of member 7"]
    [line] = errors.splitlines()
    assert line.startswith("error: 4 of ") and "things are wrong, output folder first: /proc/nothing" in line

    code, lines, errors = check("data=jsonl", f"data.path={folder}/*.jsonl", *LITTLE)
    assert code == DataError.exit_code
    assert list(what for what, line in lines.items() if line.startswith("WRONG")) == [
        "data of member 3", "data of member 5", "data of member 7"
    ]  # fmt: skip
    assert "silo-3.jsonl:1: malformed JSON" in lines["data of member 3"]
    assert "too small" in lines["data of member 5"] and "secrets" not in "".join(lines.values()) + errors


def test_of_a_large_silo_the_first_rows_are_read(check, tmp_path_factory: pytest.TempPathFactory) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("data")
    silo(folder, 0, rows=10_000)
    paths = ",".join(f"{member}:{folder}/silo-0.jsonl" for member in range(8))
    code, lines, _ = check("data=jsonl", f"data.path={{{paths}}}")
    assert code == 0 and "1.4 MB, begins with 100 rows, 1900 tokens to learn" in lines["data of member 4"]
    text = (folder / "silo-0.jsonl").read_text().splitlines()
    (folder / "silo-0.jsonl").write_text("\n".join([*text[:60], "{}", *text]))
    code, lines, _ = check("data=jsonl", f"data.path={{{paths}}}")
    assert code == 0 and "begins with 100 rows, 1 bad, 1881 tokens to learn" in lines["data of member 4"]
    code, lines, _ = check("data=jsonl", f"data.path={{{paths}}}", "data.max_bad_rows=0")
    assert code == DataError.exit_code and "silo-0.jsonl:61: " in lines["data of member 4"]


def test_of_very_many_members_the_data_of_the_last_ones_is_only_found(  # type: ignore[no-untyped-def]
    check, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("data")
    for member in range(39):
        (folder / f"silo-{member:02}.jsonl").write_text("{")
    many = ["alliance.num_members=40", "alliance.force=true", "data=jsonl", f"data.path={folder}/*.jsonl"]
    code, lines, _ = check(*many)
    assert code == DataError.exit_code and "malformed JSON" in lines["data of member 31"]
    assert "none for member 39" in lines["data of member 39"] and "data of member 33" not in lines
    assert lines["data of members 32-39"] == "ok     data of members 32-39: 7 are there, not read"


def test_a_check_shows_the_configuration_as_a_run_does(check) -> None:  # type: ignore[no-untyped-def]
    code, lines, errors = check("--cfg", "job")
    assert (code, lines, errors) == (0, {}, "")


def test_a_check_starts_nothing_whatever_is_said(check) -> None:  # type: ignore[no-untyped-def]
    code, lines, errors = check("plan_only=false")
    assert (code, errors) == (0, "") and "model" in lines


def test_all_values_out_of_range_are_told(check) -> None:  # type: ignore[no-untyped-def]
    code, _, errors = check("lora.rank=0", "training.learning_rate=nan", "data.heldout_fraction=1")
    assert code == ConfigError.exit_code and "3 of 3 things are wrong, configuration first: lora.rank is 0" in errors
    code, _, errors = check("alliance.num_members=6", "training.engine=torch", "training.zero_stage=3")
    assert code == ConfigError.exit_code and "2 of 2 things are wrong" in errors


def test_a_machine_that_is_too_small_a_damaged_model_and_a_taken_gpu(  # type: ignore[no-untyped-def]
    check, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    code, lines, _ = check("cluster.cpus_per_worker=4000", "cluster.gpus_per_worker=1")
    assert code == PlacementError.exit_code
    assert "lower cluster.nodes" in lines["machine"] and "torch sees no GPU here" in lines["model"]
    assert "not read without the model's tokenizer" not in lines["data of member 0"]  # packages need none
    folder = tmp_path_factory.mktemp("cut") / "model"
    folder.mkdir()
    for file in tiny_model_dir.iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    code, lines, _ = check(f"model.path={folder}")
    assert code == ModelError.exit_code and "is no whole file of weights" in lines["model"]
    code, lines, _ = check("model=folder", "model.path=/nowhere")
    assert code == ModelError.exit_code and "config.json is missing" in lines["model"]


def test_a_disk_that_is_too_full(check, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    code, lines, _ = check("alliance.num_epochs=300000", "chain.epoch_deadline=60")
    assert code == RunDirectoryError.exit_code and "the run needs about" in lines["free disk"]


def test_of_a_store_elsewhere_the_disk_of_the_run_needs_little(  # type: ignore[no-untyped-def]
    check, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = f"store.url={tmp_path_factory.mktemp('store')}"
    code, lines, errors = check("alliance.num_epochs=300000", "chain.epoch_deadline=60", store)
    assert (code, errors) == (0, "") and "about 50 MB for 300000 epochs" in lines["free disk"]


def test_a_rank_and_a_length_that_do_not_fit_the_model(check) -> None:  # type: ignore[no-untyped-def]
    for override, told in (
        ("lora.rank=100000", "lora.rank is 100000; it must be at most 64, the full rank of the largest"),
        (
            "data.sequence_length=512",
            "data.sequence_length is 512; it must be at most 511: the model has 512 positions",
        ),
    ):
        code, lines, errors = check(override)
        assert code == ModelError.exit_code and told in lines["model"] and told in errors


def test_a_start_that_does_not_fit_the_model(  # type: ignore[no-untyped-def]
    check, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path_factory.mktemp("run")
    base, spec = skeleton(AutoConfig.from_pretrained(tiny_model_dir)), LoraSpec(8, 16, ("all-linear",))
    adapter = initial_adapter(adapter_shapes(base, spec.target_modules, spec.rank), 0)
    save_peft(run / "adapter", canonical_bytes(adapter), spec, shortest_targets(base, spec.target_modules), "base")
    (run / "config.yaml").touch()
    hashes = model_hashes(tiny_model_dir)
    named = {"base_model": hashes.weights, "model_config": hashes.config, "tokenizer": hashes.tokenizer}
    terms = {name: to_hex(digest) for name, digest in named.items()}
    (run / "task.json").write_text(
        json.dumps({"terms": terms, "contracts": vars(Addresses("", "", "")), "balances": {}})
    )
    code, lines, errors = check(f"start_from={run}")
    assert (code, errors) == (0, "") and lines["start adapter"].endswith(f"{run} fits the model")
    code, lines, errors = check(f"start_from={run}", "lora.target_modules=[q_proj]")
    assert code == ModelError.exit_code and "the adapter has also factors of down_proj" in lines["start adapter"]
    code, lines, _ = check(f"start_from={run}", "model.path=/nowhere")
    assert code == ModelError.exit_code and lines["start adapter"].endswith("not compared without the model")
    terms["base_model"] = "11" * 32
    (run / "task.json").write_text(
        json.dumps({"terms": terms, "contracts": vars(Addresses("", "", "")), "balances": {}})
    )
    code, lines, errors = check(f"start_from={run}")
    assert code == ModelError.exit_code and "was trained on another base model" in lines["start adapter"]
    code, lines, errors = check("start_from=/nowhere")
    assert code == ModelError.exit_code and "neither an adapter folder nor" in lines["start adapter"]


def test_data_sets_of_the_hub_are_named_for_each_member(  # type: ignore[no-untyped-def]
    check, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, lines, _ = check("data=hub", "data.path=foo")
    told = "data.path is 'foo'; it must name each member's data set: data.path={0:ORG/NAME:train,1:"
    assert code == DataError.exit_code and all(told in lines[f"data of member {member}"] for member in range(8))
    named = ",".join(f"{member}:org/name:train" for member in range(7))
    code, lines, _ = check("data=hub", f"data.path={{{named}}}")
    assert code == DataError.exit_code and "has no entry for member 7" in lines["data of member 7"]
    assert lines["data of member 6"].endswith("org/name:train, fetched when the run begins")
    monkeypatch.setattr(node_look, "find_spec", lambda name: None)
    code, lines, _ = check("data=hub", f"data.path={{{named}}}")
    assert "package datasets, which is not installed: pip install" in lines["data of member 6"]


def test_a_cluster_is_asked_what_it_sees(  # type: ignore[no-untyped-def]
    check, head: Head, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("data")
    for member in range(8):
        silo(folder, member)
    there = ["cluster=existing", f"cluster.address={head.address}", "data=jsonl", f"data.path={folder}/*.jsonl"]
    code, lines, errors = check(*there, *LITTLE)
    assert (code, errors) == (0, ""), lines
    assert not ray.is_initialized()
    assert list(lines)[:5] == ["configuration", "output folder", "cluster", "machines", "model"]
    assert "silo-7.jsonl: " in lines["data of member 7"] and lines["store"].endswith("written and read")
    (folder / "silo-4.jsonl").write_text("[]")
    code, lines, _ = check(*there, *LITTLE, "cluster.cpus_per_worker=2")
    assert code == DataError.exit_code and "silo-4.jsonl (member 4) is empty" in lines["data of member 4"]
    code, lines, _ = check(*there, "cluster.cpus_per_worker=4000")
    assert code == PlacementError.exit_code and lines["machines"] == "ok     machines: none could host members"
    code, lines, _ = check(*there, f"cluster.address=127.0.0.1:{free_ports(1)[0]}")
    assert code == ClusterError.exit_code and "no Ray cluster at" in lines["cluster"]


@pytest.mark.anvil
def test_keys_and_money_on_a_chain(check, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    names = ["creator", "relayer", *(f"member-{member}" for member in range(8))]
    signers = {name: run_signer(5, name) for name in names}
    rich = {signer.address: GAS_MONEY for name, signer in signers.items() if name != "member-6"}
    chain = AnvilProcess(Genesis("anvil", 4711, GENESIS_TIME, rich))
    try:
        for name, signer in signers.items():
            if name != "member-7":
                monkeypatch.setenv(f"FLOCK_RAY_{name.upper().replace('-', '_')}_KEY", signer._key.to_hex())
        code, lines, _ = check("chain=rpc", f"chain.url={chain.url}")
        wrong = [what for what, line in lines.items() if line.startswith("WRONG")]
        assert code == KeyMissingError.exit_code
        assert wrong == ["key of member 7", "money of member 6"]
        assert f"(exit code {FundsError.exit_code})" in lines["money of member 6"]
        assert lines["money of creator"].startswith("ok ") and "will deploy them" in lines["contracts"]
        monkeypatch.setenv("FLOCK_RAY_MEMBER_7_KEY", signers["member-7"]._key.to_hex())
        absent = "0x" + "11" * 20
        code, lines, _ = check(
            "chain=rpc",
            f"chain.url={chain.url}",
            *(f"chain.{name}='{absent}'" for name in ("token", "task", "settlement")),
        )
        assert "there is no contract at" in lines["contracts"]
    finally:
        chain.close()
