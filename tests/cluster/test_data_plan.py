from __future__ import annotations

import io
from pathlib import Path

import pytest

from flock_ray.cluster.data_plan import MAX_SILOS, count_rows, show_data
from flock_ray.config import AllianceConfig, ClusterConfig, ClusterMode, Config, DataConfig, ModelConfig
from flock_ray.errors import DataError
from flock_ray.telemetry.table import Console
from tests.training.school import FORMATS, lines, questions


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


def test_a_plan_counts_rows_in_another_process(tiny_model_dir: Path, tmp_path: Path) -> None:
    for member, form in enumerate(FORMATS):
        (tmp_path / f"{member}.jsonl").write_text(lines(form, questions(member, 30)) + "not JSON\n" * (member == 2))
    config = configured(str(tmp_path), members=4)
    config.model = ModelConfig(source="folder", path=str(tiny_model_dir))
    config.data.sequence_length = 1024
    config.plan_only = True
    rows = [line.split() for line in told(config)[-5:-1]]
    assert [row[:-1] for row in rows] == [
        [str(member), str(member), str(30 + (member == 2)), "0", "0", str(int(member == 2)), "0"] for member in range(4)
    ]
    assert all(int(row[-1]) > 30 * 20 for row in rows)
    config.data.max_bad_rows = 0
    with pytest.raises(DataError, match=r"2\.jsonl:31: malformed JSON"):
        count_rows(config, [2])
