from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flock_ray.protocol.hashing import sha256
from flock_ray.store import batch as module
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobMissingError, BlobStore


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [1, 3, 40])
def test_files_appear_whole_when_the_batch_is_left_and_not_before(tmp_path: Path, number: int) -> None:
    names = [tmp_path / f"{index % 7}" / str(index) for index in range(number)]
    with Batch() as batch:
        for index, path in enumerate(names):
            batch.write(path, b"%d" % index)
        assert not any(path.exists() for path in names)
    assert files(tmp_path) == {str(path.relative_to(tmp_path)): b"%d" % index for index, path in enumerate(names)}


def test_a_batch_that_fails_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"old")
    with pytest.raises(RuntimeError), Batch() as batch:
        batch.write(tmp_path / "new", b"new")
        batch.write(tmp_path / "kept", b"new")
        raise RuntimeError
    assert files(tmp_path) == {"kept": b"old"}


def test_a_batch_replaces_links_and_appends(tmp_path: Path) -> None:
    for name in ("old", "source", "log"):
        (tmp_path / name).write_bytes(name.encode())
    with Batch() as batch:
        batch.write(tmp_path / "old", b"new")
        batch.link(tmp_path / "source", tmp_path / "folder" / "linked")
        batch.append(tmp_path / "log", b" and more")
        batch.append(tmp_path / "fresh", b"line")
    found = files(tmp_path)
    assert found == {
        "old": b"new",
        "source": b"source",
        "folder/linked": b"source",
        "log": b"log and more",
        "fresh": b"line",
    }
    assert (tmp_path / "source").samefile(tmp_path / "folder" / "linked")


@pytest.mark.parametrize("number", [2, 30])
def test_everything_is_synced_before_its_name_shows_and_the_names_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What a crash leaves is whole: files are on disk when they are renamed, and their folders at the end."""
    steps: list[str] = []
    synced, renamed = module.sync, os.rename

    def note(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: object) -> None:
            steps.append(name)
            call(*arguments)

        return noted

    monkeypatch.setattr(module, "sync", note("sync", synced))
    monkeypatch.setattr(os, "rename", note("rename", renamed))
    with Batch() as batch:
        for index in range(number):
            batch.write(tmp_path / str(index), b"data")
    assert steps == ["sync", *["rename"] * number, "sync"]


def test_threads_add_to_one_batch(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    blobs = [b"%d" % index * 1000 for index in range(100)]
    with Batch() as batch, ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda blob: store.put(blob, batch), blobs))
    assert [store.get(digest, 1 << 20) for digest in digests] == blobs


def test_a_blob_of_a_batch_is_there_once_the_batch_is_left(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    with Batch() as batch:
        digest = store.put(b"blob", batch)
        with pytest.raises(BlobMissingError):
            store.get(digest, 10)
        assert store.put(b"blob", batch) == digest  # asked again before it is there
    assert store.get(digest, 10) == b"blob"


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_file_becomes_a_blob(tmp_path: Path, kind: str) -> None:
    store = BlobStore({"local": str(tmp_path / "store"), "memory": f"memory://{tmp_path}"}[kind])
    source = tmp_path / "payload"
    source.write_bytes(b"payload")
    digest = sha256(b"payload")
    for _ in range(2):
        with Batch() as batch:
            store.put_file(digest, source, batch)
        assert store.get(digest, 10) == b"payload"
    if kind == "local":
        assert source.samefile(store.path_of(digest))


def test_a_file_is_copied_where_it_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    store, source = BlobStore(str(tmp_path / "store")), tmp_path / "payload"
    source.write_bytes(b"payload")
    with Batch() as batch:
        store.put_file(sha256(b"payload"), source, batch)
    assert store.get(sha256(b"payload"), 10) == b"payload"
    assert not source.samefile(store.path_of(sha256(b"payload")))
