"""A whole contest is killed twice; `resume` goes on to the same bytes, and nobody signs two things."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from tests.chaos.test_killed_run import only_run, play_to_the_end, play_until, signed_places
from tests.contests import configure, overrides_of, play, timeless
from tests.runs import ROOT, Head, read_summary

pytestmark = [pytest.mark.ray, pytest.mark.chain]

ARENA = (sys.executable, str(ROOT / "jobs" / "arena.py"))


def test_killed_in_a_rung_and_again_after_a_receipt(head: Head, tiny_model_dir: Path, tmp_path: Path) -> None:
    words = overrides_of(tiny_model_dir, tmp_path, "chain=eth_tester")
    whole = play(head, tmp_path / "whole", configure(*words))
    output = tmp_path / "killed"
    output.mkdir()
    play_until(
        lambda: any(kind == "rung_2_commitment" for _, _, kind in signed_places(only_run(output))),
        output,
        *words,
        f"output_dir={output}",
        command=ARENA,
    )
    run = only_run(output)
    assert not (run / "receipts" / "1.json").exists()
    play_until((run / "receipts" / "1.json").exists, output, f"resume={run}", command=ARENA)
    assert not (run / "summary.json").exists()
    play_to_the_end(output, f"resume={run}", command=ARENA)

    resumed = read_summary(run)
    assert resumed.records() == whole.records()
    assert timeless(resumed.summary) == timeless(whole.summary)
    places = signed_places(run)
    assert sorted(places) == sorted(set(places)) == sorted(signed_places(whole.path))
    lines: list[str] = []
    verify_run(RunFolder(run, ""), "", "", lines.append)
    assert any(line.startswith("settled    2 reports") for line in lines)
