"""Points of a sweep whose runs are made up: files as a run leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flock_ray.config import Config
from flock_ray.sweeps.point import Point, PointFolder

ENDS = {"whole": 0, "failed": 21, "interrupted": 130}


def folder_of(root: Path, number: int, **settings: Any) -> PointFolder:
    """A new point's folder."""
    settings = settings or {"seed": number}
    overrides = tuple(f"{name}={value}" for name, value in settings.items())
    made = PointFolder(root / "points", Point(f"{number:064x}", "alliance", settings, overrides, Config(seed=number)))
    made.create("commit 0")
    return made


def begin_run(folder: PointFolder) -> Path:
    """What a run writes first; the same folder as before if it has begun."""
    run = folder.run or folder.path / "2026-12-01" / "07-00-00"
    run.mkdir(parents=True, exist_ok=True)
    (run / "task.json").write_text("{}")
    return run


def end_run(folder: PointFolder, losses: tuple[float, float] = (3.0, 2.5), earned: Mapping[bool, int] = {}) -> Path:
    """What a run writes last."""
    run = begin_run(folder)
    epoch = {
        "accepted": True, "eval_loss_before": {"json": losses[0]}, "eval_loss_after": {"json": losses[1]},
        "eval_bits_per_byte_after": {}, "gas_used": None, "wall_seconds": {"train": 2.0}, "training": None,
    }  # fmt: skip
    members = [{"adversary": bad, "earned_wei": wei, "slashed_wei": 0} for bad, wei in earned.items()]
    summary = {
        "model": "m", "num_members": 8, "members": members, "num_honest_members_with_more": 7, "epochs": [epoch],
        "final_adapter_hash": "0x12", "chain": {},
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    return run
