from __future__ import annotations

import io
from pathlib import Path

import pytest

from flock_ray.cluster.data_plan import MAX_SILOS, show_data
from flock_ray.config import AllianceConfig, ClusterConfig, ClusterMode, Config, DataConfig
from flock_ray.errors import DataError
from flock_ray.telemetry.table import Console

pytestmark = pytest.mark.model


def configured(path: object, members: int = 3, mode: ClusterMode = ClusterMode.local) -> Config:
    return Config(
        data=DataConfig(kind="jsonl", path=path),
        alliance=AllianceConfig(num_members=members),
        cluster=ClusterConfig(mode=mode),
    )


def told(config: Config) -> list[str]:
    text = io.StringIO()
    show_data(config, Console(text))
    return text.getvalue().splitlines()


def test_which_file_goes_to_whom(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"member-{number}.jsonl").write_bytes(b"\xff")  # nobody opens it
    files = [f"  member {i}: {tmp_path}/member-{number}.jsonl" for i, number in enumerate((1, 2, 10))]
    assert told(configured(str(tmp_path))) == told(configured(f"{tmp_path}/*.jsonl")) == ["Data:", *files]
    with pytest.raises(DataError, match="matches 3 files, none for member 3"):
        told(configured(str(tmp_path), members=4))


def test_a_plan_looks_through_the_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr("flock_ray.training.files.files_of", lambda path: looks.append(path) or [tmp_path / "x"] * 3)
    (tmp_path / "x").touch()
    assert len(told(configured(str(tmp_path)))) == 4 and len(looks) == 1


def test_nothing_is_looked_up_where_other_machines_host_the_members() -> None:
    [line] = told(configured("/nowhere/*.jsonl", mode=ClusterMode.existing))
    assert line == "Data: data.path=/nowhere/*.jsonl is looked up on the nodes that host the members"


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    for number in range(MAX_SILOS + 6):
        (tmp_path / f"{number}.jsonl").touch()
    shown = told(configured(str(tmp_path), members=MAX_SILOS + 6))
    assert shown[-1] == "  and 6 more" and len(shown) == MAX_SILOS + 2


def test_other_kinds_of_data_have_no_files() -> None:
    assert told(Config()) == told(Config(plan_only=True)) == []
