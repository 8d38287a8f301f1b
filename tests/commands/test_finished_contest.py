"""Commands on the run of a contest, whose result is the leader: they take it, or refuse it in one line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from flock_ray.commands.main import main
from flock_ray.commands.trained import load_trained
from flock_ray.errors import ConfigError, RunDirectoryError, StoreError
from tests.runs import Run

pytestmark = pytest.mark.ray


def test_the_leader_is_loaded_as_plain_peft_opens_it(whole_contest: Run, tiny_model_dir: Path) -> None:
    trained = load_trained(whole_contest.path)
    assert (trained.spec.rank, trained.spec.alpha) == (4, 4)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, whole_contest.path / "adapter").state_dict()
    for key, factor in trained.adapter.items():
        [other] = [value for name, value in plain.items() if name.replace(".default", "") == key]
        assert torch.equal(factor, other)


def test_it_can_be_talked_to_measured_and_exported(
    whole_contest: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = f"run={whole_contest.path}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"count 2 4\n/exit\n")))
    assert main(["chat", run, "max_new_tokens=4"]) == 0
    assert capsys.readouterr().out.endswith("\n")
    turns = [{"role": "user", "content": "count 3 5"}, {"role": "assistant", "content": "7 9 11 13 15"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")
    assert main(["evaluate", run, f"data={tmp_path / 'rows.jsonl'}", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["files"]
    assert row["rows"] == 1 and row["adapter_loss"] < row["base_loss"], "the leader has learned to count"
    assert main(["export", run, "to=merged", f"path={tmp_path / 'merged'}"]) == 0
    card = (tmp_path / "merged" / "README.md").read_text()
    assert whole_contest.hash in card and "leaderboard.html" in card and (tmp_path / "merged/config.json").is_file()
    capsys.readouterr()
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert main(["export", run, "to=hub", "path=us/it"]) == StoreError.exit_code, "no hub is reached here"


def test_what_does_not_take_a_contest_says_so_in_one_line(
    whole_contest: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refusal(code: int, *words: str) -> str:
        assert main(list(words)) == code
        told = capsys.readouterr().err
        assert told.startswith("error: ") and len(told.splitlines()) == 1 and not list(tmp_path.iterdir())
        return told

    path = str(whole_contest.path)
    told = refusal(RunDirectoryError.exit_code, "compare", path, path)
    assert "holds the run of a contest, and compare takes those of alliances" in told and "leaderboard.html" in told
    told = refusal(RunDirectoryError.exit_code, "check", f"resume={path}")
    assert f"holds the run of a contest, not of an alliance: flock-ray arena resume={path}" in told
    for override in ("contest.days=2", "contest=sql", "experiment=arena_demo"):
        for command in ("check", "alliance"):
            told = refusal(ConfigError.exit_code, command, override)
            assert "'contest' is of contests: flock-ray arena takes it, and with plan_only=true looks" in told
    for override in ("alliance.num_epochs=2", "mechanism=flock", "experiment=tiny"):
        told = refusal(ConfigError.exit_code, "arena", override)
        assert "is of alliances: flock-ray alliance takes it, and flock-ray check looks" in told
