from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore, BlobTooLargeError
from flock_ray.store.failures import SegmentTakenError
from flock_ray.store.write_once import WriteOnceLog


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def log(url: str) -> WriteOnceLog:
    return WriteOnceLog(BlobStore(url), "signed/7")


def append(to: WriteOnceLog, data: bytes) -> None:
    with Batch() as batch:
        to.append(data, batch)


def test_what_one_process_appended_another_reads_in_order(url: str) -> None:
    writer, reader = log(url), log(url)
    assert reader.read(100) == []
    for data in (b"first", b"", b"third"):
        append(writer, data)
    assert reader.read(100) == [b"first", b"", b"third"]
    assert reader.read(100) == []
    append(reader, b"fourth")
    assert writer.read(100) == [b"fourth"]


def test_of_two_writers_that_know_the_same_segments_one_fails(url: str) -> None:
    first, second = log(url), log(url)
    append(first, b"first")
    with pytest.raises(SegmentTakenError):
        append(second, b"second")
    assert log(url).read(100) == [b"first"]


def test_a_segment_larger_than_its_reader_allows_is_refused(url: str) -> None:
    append(log(url), b"12345")
    with pytest.raises(BlobTooLargeError):
        log(url).read(4)


def test_a_batch_whose_segment_is_taken_writes_nothing_else(tmp_path: Path) -> None:
    first, second = log(str(tmp_path)), log(str(tmp_path))
    append(first, b"first")
    with pytest.raises(SegmentTakenError), Batch() as batch:
        batch.write(tmp_path / "message", b"to be signed")
        second.append(b"second", batch)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0"]


def test_without_hard_links_a_segment_is_still_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    first, second = log(str(tmp_path)), log(str(tmp_path))
    append(first, b"first")
    with pytest.raises(SegmentTakenError):
        append(second, b"second")
    assert log(str(tmp_path)).read(100) == [b"first"]
