"""`flock-ray feedback`: a silo of what users said, and the configuration of the next task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from flock_ray.cluster.run_directory import load_config
from flock_ray.commands.feedback import as_file, next_config
from flock_ray.commands.main import main
from flock_ray.config import Config, register, to_config
from flock_ray.errors import ConfigError, DataError, RunDirectoryError
from flock_ray.market.feedback import FeedbackStore
from flock_ray.market.feedback_export import HELDOUT, SILO
from tests.market.test_feedback import said
from tests.runs import configure

pytestmark = pytest.mark.model


def write_run(folder: Path, config: Config) -> Path:
    """What of a finished run the command reads."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").touch()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    return folder


@pytest.fixture
def silo(tmp_path: Path) -> Path:
    path = tmp_path / "fee dback's.jsonl"  # a path that has to be quoted
    path.write_text("{}\n")
    return path


def composed(file: Path, *overrides: str) -> Config:
    register()
    with initialize_config_dir(str(file.parent), version_base="1.3"):
        return to_config(compose(file.stem, list(overrides)))


# The next task


def test_the_next_task_has_the_old_silos_and_that_of_feedback(
    tmp_path: Path, silo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", configure("experiment=small", "seed=11", "training.steps=7"))
    target = tmp_path / "next" / "task.yaml"
    assert main(["feedback", "task", str(run), "--silo", str(silo), "--to", str(target)]) == 0
    command = f"flock-ray alliance --config-dir {target.parent} --config-name task"
    assert f"9 members, of which 8 is feedback; begin it with {command}" in capsys.readouterr().out
    before, after = load_config(run), composed(target)
    packages = before.data.packages[:8]
    assert after.data.path == {i: f"stdlib_code:{name}" for i, name in enumerate(packages)} | {8: f"jsonl:{silo}"}
    assert after == replace(
        before,
        start_from=str(run),
        data=replace(before.data, kind="mixed", path=after.data.path),
        alliance=replace(before.alliance, num_members=9),
    )
    assert composed(target, "training.steps=9", "alliance.num_epochs=1").training.steps == 9


def test_a_configuration_as_a_file_is_that_configuration(tmp_path: Path) -> None:
    config = configure("experiment=small", "seed=11", "training.steps=7")
    target = tmp_path / "next.yaml"
    target.write_text(as_file(config))
    assert composed(target) == config


def test_the_command_that_is_told_takes_the_file(
    tmp_path: Path, silo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", configure("experiment=small", "seed=11"))
    assert main(["feedback", "task", str(run), "--silo", str(silo), "--to", str(tmp_path / "task.yaml"), "--json"]) == 0
    command: str = json.loads(capsys.readouterr().out)["command"]
    assert main([*command.split()[1:], "--cfg", "job", "alliance.num_epochs=1"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert (shown.seed, shown.alliance.num_members, shown.alliance.num_epochs) == (11, 9, 1)


@pytest.mark.parametrize(
    ("overrides", "kind", "first"),
    [
        (["data=jsonl", "data.path={folder}/member-*.jsonl"], "jsonl", "{folder}/member-0.jsonl"),
        (["data=hub", "data.path={0:ORG/A,1:'ORG/B:train[:10]'}"], "mixed", "hub:ORG/A"),
        (["data=mixed", "data.path={0:stdlib_code:json,1:hub:ORG/B}"], "mixed", "stdlib_code:json"),
    ],
)
def test_silos_of_every_kind_go_on(tmp_path: Path, silo: Path, overrides: list[str], kind: str, first: str) -> None:
    for member in range(2):
        (tmp_path / f"member-{member}.jsonl").touch()
    few = [
        *(f"alliance.{one}" for one in ("num_members=2", "hosts=1", "num_voters=1", "num_proposers=1", "force=true"))
    ]
    config = configure(
        "cluster.nodes=1", "adversary=none", *few, *(word.replace("{folder}", str(tmp_path)) for word in overrides)
    )
    data = next_config(config, tmp_path, silo).data
    assert (data.kind, data.path[0]) == (kind, first.replace("{folder}", str(tmp_path)))
    assert data.path[2] == (str(silo) if kind == "jsonl" else f"jsonl:{silo}")


@pytest.mark.parametrize(
    ("changes", "words", "code", "told"),
    [
        ([], ["--silo", "nowhere.jsonl", "--to", "task.yaml"], DataError, "nowhere.jsonl is no file of rows"),
        ([], ["--silo", "{silo}", "--to", "task.json"], ConfigError, "must be a new file whose name ends in .yaml"),
        ([], ["--silo", "{silo}", "--to", "old.yaml"], ConfigError, "must be a new file"),
        (["alliance.candidates=2"], ["--silo", "{silo}", "--to", "task.yaml"], ConfigError, "has 2 candidates, whose"),
    ],
)
def test_what_makes_no_task_is_told(
    tmp_path: Path, silo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, changes: list[str],
    words: list[str], code: type[Any], told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("old.yaml").touch()
    run = write_run(tmp_path / "run", configure(*changes))
    assert (
        main(["feedback", "task", str(run), *(word.replace("{silo}", str(silo)) for word in words)]) == code.exit_code
    )
    assert told in capsys.readouterr().err
    assert not Path("task.yaml").exists()


def test_a_folder_without_a_run_is_told(tmp_path: Path, silo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["feedback", "task", str(tmp_path), "--silo", str(silo), "--to", str(tmp_path / "task.yaml")]
    assert main(words) == RunDirectoryError.exit_code
    assert "holds no run" in capsys.readouterr().err


# The silo


def test_a_silo_is_exported_and_what_was_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FeedbackStore(tmp_path / "feedback")
    for number in range(20):
        store.add(said(number))
    store.add(said(20, consent=False))
    store.add(said(21, licence="cc-by-nc-4.0"))
    words = ["feedback", "export", "--store", str(store.folder), "--to", str(tmp_path / "silo")]
    assert main(words) == 0
    told = capsys.readouterr().out
    for part in ("no consent   1", "cc-by-nc-4.0", "cc0-1.0", str(tmp_path / "silo" / SILO)):
        assert part in told, told
    counts = [(tmp_path / "silo" / name).read_text().count("\n") for name in (SILO, HELDOUT)]
    assert sum(counts) == 20 and min(counts) > 0
    assert main([*words[:-1], str(tmp_path / "more"), "--accept", "cc-by-nc-4.0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["silo_file"] == str(tmp_path / "more" / SILO)
    counts_file = json.loads((tmp_path / "more" / "counts.json").read_text())
    assert counts_file["licences"] == {"cc0-1.0": 20, "cc-by-nc-4.0": 1}
    assert main(words) == ConfigError.exit_code
    assert "is there already" in capsys.readouterr().err
    assert main([*words[:3], str(tmp_path / "nowhere"), *words[4:]]) == DataError.exit_code
    assert "holds no feedback" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
