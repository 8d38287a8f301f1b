"""What a run leaves behind: money on the chain, an adapter that other tools open, a summary."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from flock_ray.chain.abi import contract
from flock_ray.chain.client import ChainClient
from flock_ray.chain.keys import run_signer
from flock_ray.chain.values import SINK, ChainSpec, TaskStatus
from flock_ray.cluster.run_directory import load_config
from flock_ray.protocol.hashing import word
from flock_ray.protocol.seed import local_seed
from flock_ray.training.data import DataSpec, load_silo
from tests.runs import Run
from tests.waiting import PATIENCE

pytestmark = pytest.mark.ray

ADVERSARY = 3


@pytest.fixture(scope="module")
def chain(whole_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainClient]:
    """The run's chain, rebuilt from a copy of its folder."""
    copy = tmp_path_factory.mktemp("chain")
    shutil.copytree(whole_run.path / "chain", copy / "chain")
    config, facts = load_config(whole_run.path), whole_run.summary["chain"]
    members = [member["address"] for member in whole_run.summary["members"]]
    funded = [run_signer(config.seed, "creator").address, *members]
    contracts = facts["contracts"]
    named = (contracts[name] for name in ("token", "task", "settlement"))
    spec = ChainSpec(facts["backend"], (), 0, "", 0, config.seed, funded, *named, confirmation_timeout=PATIENCE)
    client = ChainClient(spec, str(copy))
    yield client
    client.close()


def test_tokens_are_neither_made_nor_lost(chain: ChainClient, whole_run: Run) -> None:
    config, contracts = load_config(whole_run.path), whole_run.summary["chain"]["contracts"]
    members = [member["address"] for member in whole_run.summary["members"]]
    creator, relayer = (run_signer(config.seed, name).address for name in ("creator", "relayer"))
    balances = chain.wallet_balances([*members, creator, relayer, SINK, *contracts.values()])
    alliance = config.alliance
    minted = (alliance.pool + alliance.num_members * alliance.min_stake) * 10**18
    assert sum(balances.values()) == chain.total_supply() == minted
    slashed = sum(member["slashed_wei"] for member in whole_run.summary["members"])
    earned = sum(member["earned_wei"] for member in whole_run.summary["members"])
    assert balances[relayer] == slashed // 10 > 0
    assert balances[SINK] == slashed - slashed // 10  # by way of the task's escrow
    assert balances[creator] == alliance.pool * 10**18 - earned
    staked = sum(member["stake_wei"] for member in whole_run.summary["members"])
    assert [balances[contracts[name]] for name in ("token", "task", "settlement", "distributor")] == [0, 0, 0, 0]
    assert balances[contracts["vault"]] == staked
    owned, free = chain.balances(members), [chain.context(member).free_stake for member in members]
    assert list(owned.values()) == [member["balance_end_wei"] for member in whole_run.summary["members"]]
    assert free == [member["stake_wei"] for member in whole_run.summary["members"]]


def test_the_contract_closed_the_task_on_the_final_adapter(chain: ChainClient, whole_run: Run) -> None:
    task = bytes.fromhex(whole_run.summary["task_id"][2:])
    view = chain.task_view(task)
    assert view.status is TaskStatus.CLOSED
    assert view.last_settled == 2
    assert "0x" + view.last_report.hex() == whole_run.receipt(2)["report_hash"]
    topics = [contract("EpochSettlement").event_topic("EpochSettled"), task, word(2)]
    ((_, data),) = chain._node.logs(whole_run.summary["chain"]["contracts"]["settlement"], topics)
    report_hash, _, _, model_hash, _ = (data[at : at + 32] for at in range(0, 160, 32))
    assert (report_hash, model_hash.hex()) == (view.last_report, whole_run.hash[2:])


def test_only_the_adversary_pays(whole_run: Run) -> None:
    members = whole_run.summary["members"]
    assert [member["adversary"] for member in members] == [index == ADVERSARY for index in range(8)]
    adversary = members[ADVERSARY]
    assert adversary["slashed_wei"] > 0
    assert adversary["balance_end_wei"] < adversary["balance_start_wei"]
    for member in members:
        if not member["adversary"]:
            assert member["slashed_wei"] == 0
            assert member["balance_end_wei"] - member["balance_start_wei"] == member["earned_wei"] >= 0
    proposals = [proposal for epoch in whole_run.summary["epochs"] for proposal in epoch["proposals"]]
    statuses = {one["status"] for one in proposals if one["member"] == ADVERSARY}
    assert "harmful" in statuses <= {"harmful", "rejected"}
    assert "accepted" in {one["status"] for one in proposals}


def test_every_epoch_tells_its_transaction_and_gas(whole_run: Run) -> None:
    epochs = whole_run.summary["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    for epoch in epochs:
        assert 50_000 < epoch["gas_used"] < 1_000_000
        receipt = whole_run.receipt(epoch["epoch"])
        assert receipt["settlement"] == {"transaction": epoch["settlement_tx"], "gas_used": epoch["gas_used"]}
    assert len({epoch["settlement_tx"] for epoch in epochs}) == 2


def test_the_report_stands_alone(whole_run: Run) -> None:
    report = (whole_run.path / "report.html").read_text()
    assert whole_run.hash[2:10] in report
    assert 'src="http' not in report and 'href="http' not in report
    assert (whole_run.path.parents[1] / "latest").resolve() == whole_run.path


def test_prompts_are_answered_before_and_after(whole_run: Run, tiny_model_dir: Path) -> None:
    """By the likeliest tokens, as plain PEFT finds them; the run starts from an adapter that changes nothing."""
    answers, report = whole_run.summary["answers"], (whole_run.path / "report.html").read_text()
    assert [answer["prompt"] for answer in answers] == load_config(whole_run.path).report.prompts and len(answers) == 3
    assert "What the model says" in report and "Local training" in report and "learning rate" in report
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, whole_run.path / "adapter").eval()
    for answer in answers:
        turns = [{"role": "user", "content": answer["prompt"]}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        for when, setting in (("after", nullcontext()), ("before", model.disable_adapter())):
            with setting:
                made = model.generate(**ids, max_new_tokens=48, do_sample=False)
            told = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            assert answer[when] == told, when


def test_the_adapter_hash_is_that_of_the_saved_file(whole_run: Run) -> None:
    saved = (whole_run.path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert whole_run.hash == "0x" + hashlib.sha256(saved).hexdigest()
    assert json.loads((whole_run.path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_the_adapter_folder_opens_by_itself(whole_run: Run, tiny_model_dir: Path) -> None:
    folder = whole_run.path / "adapter"
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    assert model.peft_config["default"].base_model_name_or_path == str(tiny_model_dir)
    ours, theirs = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tiny_model_dir)
    assert ours.chat_template == theirs.chat_template and ours("def f():").input_ids == theirs("def f():").input_ids


def test_the_model_card_says_what_came_about(whole_run: Run) -> None:
    card = (whole_run.path / "adapter" / "README.md").read_text()
    anchor = whole_run.events("task_created")[0]["anchor"]
    for fact in (anchor, whole_run.hash, whole_run.summary["task_id"], "2 epochs", "(simulated adversary)"):
        assert fact in card
    for member in whole_run.summary["members"]:
        assert member["address"] in card and f"{member['num_tokens']:,}" in card
    for name, loss in whole_run.summary["epochs"][-1]["eval_loss_after"].items():
        assert name in card and f"{loss:.4f}" in card
    assert "base_model:" not in card.split("---")[1], "the base is not on a hub"


def test_plain_peft_gives_the_reported_losses(whole_run: Run, tiny_model_dir: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = PeftModel.from_pretrained(base, whole_run.path / "adapter").eval()
    config = load_config(whole_run.path)
    fields = {name: value for name, value in vars(config.data).items() if name != "packages"}
    spec = DataSpec(**fields, packages=tuple(config.data.packages), seed=local_seed(config.seed, "data"))
    reported = whole_run.summary["epochs"][-1]["eval_loss_after"]
    before = whole_run.summary["epochs"][0]["eval_loss_before"]
    assert len(reported) == 7
    assert all(loss < before[silo] - 0.01 for silo, loss in reported.items())
    for number, member in enumerate(whole_run.summary["members"]):
        if member["adversary"]:
            continue
        nll, tokens = [], 0
        for example in load_silo(spec, number, tokenizer).heldout:
            with torch.no_grad():
                loss = model(input_ids=example.input_ids[None], labels=example.labels[None]).loss
            nll.append(loss.item() * example.num_labels)
            tokens += example.num_labels
        assert math.fsum(nll) / tokens == pytest.approx(reported[member["silo"]], abs=1e-3)
