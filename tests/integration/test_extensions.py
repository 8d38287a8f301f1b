"""What CONTRIBUTING.md says about extensions is enough: they are added to a copy, which then runs and verifies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extensions import FILES, LINES
from tests.runs import ROOT, tiny
from tests.waiting import PATIENCE

pytestmark = pytest.mark.ray


def test_a_rule_a_wire_format_a_behaviour_and_a_mechanism_are_files_and_lines(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    for folder in ("flock_ray", "conf", "jobs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.lstrip())
    for name, (module, item, line) in LINES.items():
        with (tmp_path / name).open("a") as registry:
            registry.write(f"\nfrom {module} import {item}  # noqa: E402\n\n{line}\n")

    def job(name: str, *arguments: str) -> str:
        command = [sys.executable, str(tmp_path / "jobs" / name), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
        return done.stdout

    job(
        "alliance.py",
        *tiny(
            tiny_model_dir, "aggregation=first", "wire_format=marked", "mechanism=wage", "adversary=zeros",
            "chain=none", f"output_dir={tmp_path}/outputs",
        ),
    )  # fmt: skip
    run = (tmp_path / "outputs" / "latest").resolve()
    terms = json.loads((run / "task.json").read_bytes())["terms"]
    assert (terms["rule"], terms["rule_parameters"]) == ("first", {"part": 2})
    assert (terms["mechanism"], terms["mechanism_parameters"]) == ("wage", {"part": 20})
    assert terms["wire_format"] == "marked"
    record = json.loads((run / "records" / "2.json").read_bytes())
    assert [weight for _, weight in record["candidate"]["weights"]].count(1) == 1
    assert len({wei for _, wei in record["rewards"]}) == 1 and len(record["rewards"]) == 8
    assert {row[5]["paid"] for row in record["members"]} == {2}
    assert "3" in {str(row[0]) for row in record["members"]}
    assert "Everything that can be checked holds" in job("verify.py", str(run))
