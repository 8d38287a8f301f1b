from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flock_ray.errors import StoreError
from flock_ray.store.blob_store import BlobMissingError, BlobStore, BlobTooLargeError


@pytest.fixture(params=["path", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BlobStore(
        {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path}"}[request.param]
    )


@pytest.fixture
def local(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "store"))


def blob_path(tmp_path: Path, data: bytes) -> Path:
    digest = hashlib.sha256(data).hexdigest()
    return tmp_path / "store" / digest[:2] / digest


@given(data=st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_was_put_is_got_under_its_sha256(store: BlobStore, data: bytes) -> None:
    digest = store.put(data)
    assert digest == hashlib.sha256(data).digest()
    assert store.has(digest)
    assert store.get(digest, max_bytes=len(data)) == data
    assert store.put(data) == digest


def test_layout_and_no_leftovers(local: BlobStore, tmp_path: Path) -> None:
    local.put(b"one")
    local.put(b"one")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [blob_path(tmp_path, b"one")]


def test_a_blob_that_is_there_is_not_written_again(local: BlobStore, tmp_path: Path) -> None:
    local.put(b"one")
    before = blob_path(tmp_path, b"one").stat().st_ino
    local.put(b"one")
    assert blob_path(tmp_path, b"one").stat().st_ino == before


def test_blobs_are_readable_by_whom_the_umask_allows(local: BlobStore, tmp_path: Path) -> None:
    local.put(b"one")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(blob_path(tmp_path, b"one").stat().st_mode) == 0o666 & ~umask


def test_a_missing_blob_is_named(store: BlobStore) -> None:
    digest = hashlib.sha256(b"absent").digest()
    assert not store.has(digest)
    with pytest.raises(BlobMissingError, match=digest.hex()):
        store.get(digest, max_bytes=10)


def test_a_blob_above_the_limit_is_refused(store: BlobStore) -> None:
    digest = store.put(b"x" * 100)
    assert len(store.get(digest, max_bytes=100)) == 100
    with pytest.raises(BlobTooLargeError, match=f"{digest.hex()}.*99 bytes"):
        store.get(digest, max_bytes=99)


def test_a_huge_blob_is_not_read_whole(local: BlobStore, tmp_path: Path) -> None:
    digest = local.put(b"one")
    os.truncate(blob_path(tmp_path, b"one"), 2**36)  # sparse: reading it whole would not fit in memory
    with pytest.raises(BlobTooLargeError):
        local.get(digest, max_bytes=1000)


@pytest.mark.parametrize("damage", [b"onf", b"on", b""])
def test_a_corrupted_blob_is_named(local: BlobStore, tmp_path: Path, damage: bytes) -> None:
    digest = local.put(b"one")
    blob_path(tmp_path, b"one").write_bytes(damage)
    with pytest.raises(StoreError, match=f"{digest.hex()} is corrupted"):
        local.get(digest, max_bytes=1000)


def test_putting_again_repairs_a_truncated_blob(local: BlobStore, tmp_path: Path) -> None:
    digest = local.put(b"one")
    blob_path(tmp_path, b"one").write_bytes(b"")
    local.put(b"one")
    assert local.get(digest, max_bytes=3) == b"one"


def test_a_failed_write_leaves_nothing(local: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left"):
        local.put(b"one")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not local.has(hashlib.sha256(b"one").digest())


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be"):
        BlobStore(str(tmp_path / "file")).put(b"one")


def test_a_removed_blob_is_gone_and_may_come_back(store: BlobStore) -> None:
    first, second = store.put(b"one"), store.put(b"and another")
    assert store.remove(second) == len(b"and another")
    assert not store.has(second) and store.has(first)
    assert store.remove(second) is None
    assert store.put(b"and another") == second and store.has(second)


@pytest.mark.parametrize("digest", [b"", b"x" * 31, b"x" * 64])
def test_a_hash_of_another_length_is_our_mistake(local: BlobStore, digest: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        local.has(digest)


def test_an_unknown_protocol_is_refused_at_once() -> None:
    with pytest.raises(StoreError, match="nosuch"):
        BlobStore("nosuch://bucket")


def test_probe_tells_a_shared_store_from_a_private_one(tmp_path: Path) -> None:
    here, there, elsewhere = (BlobStore(str(tmp_path / name)) for name in ("shared", "shared", "private"))
    here.probe_write("ab12")
    there.probe_read("ab12")
    with pytest.raises(StoreError, match=r"every node must reach store\.url"):
        elsewhere.probe_read("ab12")
    there.probe_remove("ab12")
    with pytest.raises(StoreError, match="another node"):
        here.probe_read("ab12")


def test_probe_notices_other_bytes(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    store.probe_write("ab12")
    (tmp_path / "probe" / "ab12").write_text("something else")
    with pytest.raises(StoreError, match="other bytes"):
        store.probe_read("ab12")


def test_probe_tokens_are_hex(local: BlobStore) -> None:
    with pytest.raises(ValueError, match="hex"):
        local.probe_write("../escape")


def test_a_store_and_its_errors_travel_between_processes(local: BlobStore) -> None:
    digest = local.put(b"one")
    assert pickle.loads(pickle.dumps(local)).get(digest, 3) == b"one"
    with pytest.raises(BlobTooLargeError) as caught:
        local.get(digest, 1)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is BlobTooLargeError and str(copy) == str(caught.value)


def hammer(url: str) -> list[bytes]:
    """Put the same blobs as every other process, reading each back at once."""
    store, digests = BlobStore(url), []
    for number in range(20):
        data = bytes([number]) * 50_000
        digests.append(store.put(data))
        assert store.get(digests[-1], len(data)) == data
    return digests


def test_processes_that_put_the_same_blobs_never_see_half_of_one(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
        results = list(pool.map(hammer, [url] * 4))
    assert all(result == results[0] for result in results)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 20 and not [path for path in files if path.name.endswith(".tmp")]
