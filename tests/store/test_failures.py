"""What may pass by itself is told from what somebody has to repair, whatever the driver raises."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flock_ray.errors import RunDirectoryError, StoreError
from flock_ray.protocol.hashing import sha256
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobMissingError, BlobStore, StoreUnavailableError
from flock_ray.store.failures import run_folder_errors
from flock_ray.store.retry import retried

DIGEST = sha256(b"one")


class DriverError(Exception):
    """As cloud drivers have them: no OSError."""


class Flaky(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem in memory whose every access raises what stands next in `failures`."""

    protocol = "flaky"
    store: dict[str, object] = {}  # noqa: RUF012 - as in the class that it extends
    failures: list[Exception] = []  # noqa: RUF012

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def pipe_file(self, path: str, value: bytes, **options: object) -> None:
        self._fail()
        super().pipe_file(path, value, **options)

    def _open(self, path: str, *args: object, **options: object) -> object:
        self._fail()
        return super()._open(path, *args, **options)

    def size(self, path: str) -> int:
        self._fail()
        return int(super().size(path))

    def rm_file(self, path: str) -> None:
        self._fail()
        super().rm_file(path)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.failures = []
    return BlobStore(f"flaky://{tmp_path}")


ACCESSES: dict[str, Callable[[BlobStore], object]] = {
    "put": lambda store: store.put(b"two"),
    "get": lambda store: store.get(DIGEST, 10),
    "has": lambda store: store.has(DIGEST),
    "remove": lambda store: store.remove(DIGEST),
    "probe_write": lambda store: store.probe_write("ab12"),
    "probe_read": lambda store: store.probe_read("ab12"),
    "probe_remove": lambda store: store.probe_remove("ab12"),
}
PASSING = (ConnectionResetError("reset"), TimeoutError(), OSError(errno.EIO, "Input/output error"), DriverError("503"))
LASTING = (
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    OSError(errno.EROFS, os.strerror(errno.EROFS)), PermissionError("403"), NotImplementedError("no such call"),
)  # fmt: skip


@pytest.mark.parametrize("access", ACCESSES.values(), ids=ACCESSES)
def test_what_may_pass_is_told_from_what_stays(store: BlobStore, access: Callable[[BlobStore], object]) -> None:
    store.put(b"one")
    store.probe_write("ab12")
    for failure in (*PASSING, *LASTING):
        Flaky.failures = [failure]
        with pytest.raises(StoreError, match="cannot be") as caught:
            access(store)
        assert isinstance(caught.value, StoreUnavailableError) == (failure in PASSING), failure
        assert "\n" not in str(caught.value)
    access(store)


def test_a_full_disk_and_a_closed_one_are_named(store: BlobStore) -> None:
    for failure, said in ((LASTING[0], "no space left on device"), (LASTING[2], "read-only file system")):
        Flaky.failures = [failure]
        with pytest.raises(StoreError, match=f"cannot be looked at: {said}"):
            store.put(b"one")


def test_missing_corrupted_and_too_large_are_not_unavailable(store: BlobStore) -> None:
    with pytest.raises(BlobMissingError) as caught:
        store.get(DIGEST, 10)
    assert not isinstance(caught.value, StoreUnavailableError)


def test_an_unavailable_store_crosses_processes_as_it_is() -> None:
    sent = pickle.loads(pickle.dumps(StoreUnavailableError("away")))
    assert type(sent) is StoreUnavailableError and sent.exit_code == 60


def test_a_call_is_made_again_until_it_succeeds(store: BlobStore) -> None:
    Flaky.failures = [ConnectionResetError(), TimeoutError()]
    slept: list[float] = []
    assert retried(lambda: store.put(b"one"), StoreUnavailableError, (1, 2, 4), slept.append) == DIGEST
    assert slept == [1, 2]


def test_the_last_failure_and_any_other_go_to_the_caller(store: BlobStore) -> None:
    slept: list[float] = []
    Flaky.failures = [ConnectionResetError(), ConnectionResetError(), TimeoutError("last")]
    with pytest.raises(StoreUnavailableError, match="last"):
        retried(lambda: store.has(DIGEST), StoreUnavailableError, (1, 2), slept.append)
    assert slept == [1, 2]
    with pytest.raises(BlobMissingError):
        retried(lambda: store.get(DIGEST, 10), StoreUnavailableError, (1, 2), slept.append)
    assert slept == [1, 2]


def test_a_full_disk_under_a_batch_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for call in ("write", "fsync", "rename"):
        with monkeypatch.context() as patch, pytest.raises(StoreError) as caught:
            patch.setattr(os, call, full)
            with Batch() as batch:
                batch.write(tmp_path / "new", b"new")
        assert str(caught.value) == f"{tmp_path / 'new'} cannot be written: no space left on device"
        assert not isinstance(caught.value, StoreUnavailableError)
        assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="journal cannot be written: no space"):
        patch.setattr(os, "write", full)
        with Batch() as batch:
            batch.append(tmp_path / "journal", b"line")


def test_what_fails_in_a_run_s_folder_is_one_line_of_its_class(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(RunDirectoryError) as caught, run_folder_errors(tmp_path / "summary.json"):
        raise full
    assert str(caught.value) == f"{tmp_path / 'summary.json'} cannot be written: no space left on device"
    with pytest.raises(ValueError, match="ours"), run_folder_errors(tmp_path):
        raise ValueError("ours")
