"""`flock-ray market-demo` on a small run: what users used is settled, what they said becomes the next version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, Head, free_ports, tiny
from tests.waiting import PATIENCE

pytestmark = pytest.mark.ray
LONGER = ("adversary=none", "store.keep=all", "tracking=none", "data.sequence_length=192", "data.heldout_tokens=256")
"""A run whose sequences have room for a question and its answer."""


def test_the_circle_closes(head: Head, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = head.run(tmp_path / "run", *tiny(tiny_model_dir, *LONGER))
    [port] = free_ports(1)
    words = [f"run={run.path}", "accept=unknown", "seconds=2", f"port={port}"]
    command = [sys.executable, "-m", "flock_ray", "market-demo", *words]
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "stdin": subprocess.DEVNULL}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)  # type: ignore[call-overload]
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = dict(re.findall(r"^\[ *\d+ s\] ([a-z -]+): (.+)$", ended.stdout, re.MULTILINE))
    assert told["corrections"] == "200"
    assert "the same as users' receipts say" in told["settled"]
    paid = re.search(r"to members ([\d.]+) tokens", told["paid"])
    assert paid and float(paid[1]) > 0
    before, after = map(float, re.findall(r"[\d.]+(?= before| after)", told["loss on held-out corrections"]))
    assert after < before
    now, started = re.findall(r"coder-model@[0-9a-f]{8}", told["now served"])
    assert now != started
