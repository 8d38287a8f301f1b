"""A whole run under each level of `store.keep`: what is left, what it takes, and what jobs/verify.py says of it."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from omegaconf import OmegaConf

from flock_ray.cluster.run_directory import RunDirectory, load_config
from flock_ray.commands import alliance as command
from flock_ray.commands.main import main
from flock_ray.config import Config, Keep
from flock_ray.errors import RunDirectoryError
from flock_ray.store.blob_store import BlobStore
from flock_ray.telemetry.table import Console
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run

if TYPE_CHECKING:
    from tests.runs import Run

pytestmark = pytest.mark.ray


def verify(*arguments: str) -> int:
    return main(["verify", *arguments])


def blobs(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (folder / "store").glob("*/*")}


def with_keep(run: Path, copy: Path, keep: Keep) -> RunDirectory:
    """A copy of a run that says it was run with this `store.keep`."""
    shutil.copytree(run, copy)
    config = load_config(copy)
    kept: Config = replace(config, store=replace(config.store, keep=keep))
    (copy / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(kept)))
    return RunDirectory(copy)


def test_by_default_a_run_keeps_exactly_what_its_replay_reads(whole_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    blob = RunFolder.blob

    def noted(folder: RunFolder, digest: bytes, max_bytes: int) -> bytes | None:
        read.add(digest.hex())
        return blob(folder, digest, max_bytes)

    monkeypatch.setattr(RunFolder, "blob", noted)
    verify_run(RunFolder(whole_run.path), "", "", lambda line: None)
    assert blobs(whole_run.path).keys() == read | {whole_run.hash[2:]}
    (event,) = whole_run.events("store_pruned")
    between = blobs(whole_run.path)[whole_run.hash[2:]]  # the adapter after epoch 1 is as large
    assert (event["keep"], event["removed"]) == ("replay", 2) and event["bytes"] > between  # the signing entries too
    assert not list(whole_run.path.glob("members/*/vault/*/*"))


def test_a_run_that_keeps_its_adapter_is_whole_and_can_no_more_be_verified(
    whole_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_keep(whole_run.path, tmp_path / "run", Keep.adapter)
    assert verify(str(run.path)) == 0, "nothing is gone yet"
    before = blobs(run.path)
    file = io.StringIO()
    monkeypatch.setattr(command, "Console", lambda: Console(file))

    def broken(store: BlobStore, digest: bytes) -> int | None:
        raise KeyboardInterrupt

    resumed = replace(load_config(run.path), resume=str(run.path))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(BlobStore, "remove", broken)
        command.play(resumed, ())
    for _ in range(2):
        command.play(resumed, ())
    told = file.getvalue()
    assert told.count("complete already; nothing to do") == 2 and told.count("Store pruned (store.keep=adapter)") == 1
    after = blobs(run.path)
    assert after.keys() == {whole_run.hash[2:]}
    assert 8 * sum(after.values()) < sum(before.values())
    capsys.readouterr()
    assert verify(str(run.path)) == RunDirectoryError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: this run's store was pruned by store.keep=adapter: epoch 1: message 0x")
    assert "neither verified nor refuted" in line
    assert verify(str(run.path), "--store", str(whole_run.path / "store")) == 0, "a full copy of the store does"
