from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flock_ray.commands.main import main
from flock_ray.errors import ConfigError, RunDirectoryError

pytestmark = pytest.mark.chain  # amounts are told by its modules


def finished(folder: Path, seed: int, losses: list[float]) -> Path:
    epochs: list[dict[str, Any]] = [
        {
            "accepted": True, "eval_loss_before": {"json": before}, "eval_loss_after": {"json": after},
            "eval_bits_per_byte_after": {}, "gas_used": None, "wall_seconds": {"train": 2.0}, "training": None,
        }
        for before, after in pairwise(losses)
    ]  # fmt: skip
    summary = {
        "model": "m", "num_members": 8, "members": [], "num_honest_members_with_more": 7, "epochs": epochs,
        "final_adapter_hash": "0x12",
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(f"seed: {seed}\noutput_dir: {folder}\n")
    return folder


def test_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = finished(tmp_path / "a/1", 1, [3.0, 2.0]), finished(tmp_path / "b/1", 2, [3.0, 2.5, 2.25])
    page = tmp_path / "page.html"
    assert main(["compare", str(one), str(two), "--to", str(page)]) == 0
    table = capsys.readouterr().out
    assert "-33.33%" in table and "-25.00%" in table and "seed" in table and "output_dir" not in table
    assert f"Page: {page}" in table and "b/1" in page.read_text()
    assert main(["compare", str(one), str(two), str(two), "--to", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in told["runs"]] == ["a/1", "b/1 #2", "b/1 #3"]
    assert told["settings"] == [{"setting": "seed", "values": ["1", "2", "2"]}]
    assert [run["loss_after"] for run in told["runs"]] == [2.0, 2.25, 2.25]


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = finished(tmp_path / "a/1", 1, [3.0, 2.0]), finished(tmp_path / "a/2", 2, [3.0, 2.0])

    def refusal(code: int, *runs: Path) -> str:
        assert main(["compare", *map(str, runs), "--to", str(tmp_path / "page.html")]) == code
        told = capsys.readouterr().err
        assert len(told.splitlines()) == 1 and not (tmp_path / "page.html").exists()
        return told

    assert "needs two runs" in refusal(ConfigError.exit_code, one)
    assert "summary.json is missing" in refusal(RunDirectoryError.exit_code, one, tmp_path)
    (two / "config.yaml").write_text("a: [")
    assert "config.yaml does not read" in refusal(RunDirectoryError.exit_code, one, two)
    (two / "config.yaml").write_text("seed: 2")
    (two / "summary.json").write_text("{}")
    assert "is not what this version writes" in refusal(RunDirectoryError.exit_code, one, two)
