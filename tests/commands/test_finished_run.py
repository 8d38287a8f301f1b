"""Commands on a finished run: talk to it, measure it, export it."""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from flock_ray.commands.chat import Conversation
from flock_ray.commands.main import main
from flock_ray.commands.trained import load_trained
from flock_ray.errors import ConfigError, DataError, ModelError, RunDirectoryError, StoreError
from flock_ray.telemetry.text import spoken
from flock_ray.training.generation import Generator, Sampling
from tests.runs import ROOT, Run
from tests.waiting import PATIENCE

pytestmark = pytest.mark.ray

ROWS = [
    ("What is Ray?", "A framework."),
    ("And LoRA, in a few words?", "An adapter of low rank, trained instead of all the weights of a model."),
    ("def f(x):", "return x"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in ROWS]
    path.write_text("".join(json.dumps({"conversations": row}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def generator(whole_run: Run) -> Generator:
    trained = load_trained(whole_run.path)
    return Generator(trained.base, trained.spec, trained.adapter, date(2025, 1, 1))


def plain(run: Run, model: Path) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return PeftModel.from_pretrained(base, run.path / "adapter").eval()


def test_answers_are_those_of_plain_transformers(generator: Generator, whole_run: Run, tiny_model_dir: Path) -> None:
    model, tokenizer = plain(whole_run, tiny_model_dir), AutoTokenizer.from_pretrained(tiny_model_dir)
    turns, pieces = [{"role": "user", "content": "import json"}], list[str]()
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answers = {}
    for adapted in (True, False):
        answers[adapted] = generator.answer(turns, Sampling(48), adapted, pieces.append)
        if adapted:
            assert "".join(pieces) == answers[True] and len(pieces) > 1, "it comes piece by piece"
            made = model.generate(**ids, max_new_tokens=48, do_sample=False)
        else:
            with model.disable_adapter():
                made = model.generate(**ids, max_new_tokens=48, do_sample=False)
        assert answers[adapted] == tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answers[True] != answers[False]


def test_what_is_drawn_follows_from_the_seed(generator: Generator) -> None:
    turns = [{"role": "user", "content": "import json"}]
    drawn = [generator.answer(turns, Sampling(12, 1.5, 0.9, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_conversation(generator: Generator) -> None:
    output = io.StringIO()
    conversation = Conversation(generator, Sampling(8), "Be brief.", output)

    def take(line: str) -> str:
        output.seek(output.truncate(0))
        assert conversation.take(line)
        return output.getvalue()

    assert take("/base\n") == "Nothing was asked yet.\n"
    assert take("\n") == ""
    first = take("import json\n")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "import json"}]
    answer = generator.answer(turns, Sampling(8))
    assert first == spoken(answer) + "\n"
    base = take("/base")
    assert base.startswith("base: ") and base != f"base: {first}"
    assert take("/history") == f"system: Be brief.\nuser: import json\nassistant: {first}"
    both = take("/base def f(x):")
    assert both.startswith("adapter: ") and "\nbase: " in both
    assert "/exit" in take("/help") and "There is no /what." in take("/what")
    take("/reset")
    assert take("/history") == "system: Be brief.\n"
    assert "more than the 512 that the model takes; /reset" in take("x y z " * 200)
    assert take("/history") == "system: Be brief.\n"
    conversation.take("def g(x):")
    refused = take("/base " + "x y z " * 200)
    assert "more than the 512" in refused and "\nbase: " not in refused
    assert not conversation.take("/exit")


def test_lines_may_be_piped_in(whole_run: Run) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "flock_ray", "chat", f"run={whole_run.path}", "max_new_tokens=4"],
        input=b"hello \xff\n/exit\nnever\n", cwd=ROOT, capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, b"")
    said = ended.stdout.decode()
    assert said.endswith("\n") and 1 <= len(said.splitlines()) <= 3 and "never" not in said


def test_losses_are_those_of_plain_peft(
    whole_run: Run, tiny_model_dir: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = plain(whole_run, tiny_model_dir), AutoTokenizer.from_pretrained(tiny_model_dir)
    nll, tokens, size = list[float](), list[int](), list[int]()
    for question, answer in ROWS:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        first, then = (
            tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, f"{answer}<|im_end|>\n")
        )
        labels = torch.tensor([[-100] * len(first) + then])
        with torch.no_grad():
            nll.append(model(input_ids=torch.tensor([first + then]), labels=labels).loss.item() * len(then))
        tokens.append(len(then))
        size.append(len(f"{answer}\n"))
    mean = math.fsum(n / t for n, t in zip(nll, tokens, strict=True)) / 3
    bits = math.fsum(n / s for n, s in zip(nll, size, strict=True)) / 3 / math.log(2)
    expected = {
        "token": (math.fsum(nll) / sum(tokens), math.fsum(nll) / sum(size) / math.log(2)),
        "row": (mean, bits),
    }
    for average, (loss, bits_per_byte) in expected.items():
        words = [f"run={whole_run.path}", f"data={data}", f"average={average}", "--json"]
        assert main(["evaluate", *words]) == 0
        (row,) = json.loads(capsys.readouterr().out)["files"]
        assert (row["rows"], row["rows_cut"], row["tokens"]) == (3, 0, sum(tokens))
        assert row["adapter_loss"] == pytest.approx(loss, abs=1e-4)
        assert row["adapter_bits_per_byte"] == pytest.approx(bits_per_byte, abs=1e-4)
        assert abs(row["base_loss"] - row["adapter_loss"]) > 1e-3
    assert main(["evaluate", f"run={whole_run.path}", f"data={data}", "length=24"]) == 0
    table = capsys.readouterr().out
    assert "rows cut" in table and "adapter bits per byte" in table and "%" in table


def test_a_merged_model_is_the_base_with_its_adapter(
    whole_run: Run, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep" / "merged"
    assert main(["export", f"run={whole_run.path}", "to=merged", f"path={folder}"]) == 0
    assert capsys.readouterr().out == f"Merged model: {folder}\n"
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert merged.dtype == torch.float32 and merged.config.use_cache
    ids = AutoTokenizer.from_pretrained(folder)("import json\ndef f(x):", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = plain(whole_run, tiny_model_dir)(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    card = (folder / "README.md").read_text()
    assert "library_name: transformers\n" in card and whole_run.hash in card and "AutoPeft" not in card
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    assert sorted(path.name for path in folder.parent.iterdir()) == ["merged"]
    assert main(["export", f"run={whole_run.path}", "to=merged", f"path={folder}"]) == ConfigError.exit_code
    assert "is there already" in capsys.readouterr().err


def test_the_hub_is_refused_without_a_token_or_a_network(
    whole_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    words = ["export", f"run={whole_run.path}", "to=hub"]
    assert main(words) == ConfigError.exit_code
    assert "path=ORG/NAME is missing" in capsys.readouterr().err
    assert main([*words, "path=us/it"]) == ConfigError.exit_code
    assert "needs a token" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert main([*words, "path=us/it"]) == StoreError.exit_code
    told = capsys.readouterr().err
    assert told.startswith("error: the hub did not take us/it: ") and len(told.splitlines()) == 1


def test_runs_that_cannot_be_used(whole_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(code: int, *words: str) -> str:
        assert main(list(words)) == code
        told = capsys.readouterr().err
        assert told.startswith("error: ") and len(told.splitlines()) == 1
        return told

    assert "holds no run" in refusal(RunDirectoryError.exit_code, "chat", f"run={tmp_path}")
    missing = refusal(DataError.exit_code, "evaluate", f"run={whole_run.path}", f"data={tmp_path}/*.jsonl")
    assert "matches no file" in missing
    copy = shutil.copytree(whole_run.path, tmp_path / "run")
    task = json.loads((copy / "task.json").read_text())
    for term, told in (("base_model", "weights"), ("model_config", "config.json"), ("tokenizer", "tokenizer")):
        other = task | {"terms": task["terms"] | {term: "0x" + "12" * 32}}
        (copy / "task.json").write_text(json.dumps(other))
        line = refusal(ModelError.exit_code, "chat", f"run={copy}")
        assert f"another base model than that of the run in {copy}: its {told}" in line
    shutil.rmtree(copy / "adapter")
    assert "it has no adapter yet; resume=" in refusal(
        RunDirectoryError.exit_code, "export", f"run={copy}", "to=merged"
    )
