"""The folder of a run as hostile input: reads regular files inside it, of bounded size, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from flock_ray.errors import RunDirectoryError, VerificationError
from flock_ray.protocol.encoding import parse_json
from flock_ray.protocol.hashing import sha256
from flock_ray.store.blob_store import BlobMissingError, BlobStore, BlobTooLargeError

MAX_CONFIG = 1 << 20
MAX_JSON = 1 << 26
MAX_JOURNAL = 1 << 28
MAX_DEPTH = 16


class RunFolder:
    """Reads the files of a run by name.

    Attributes:
        path: of the folder.
    """

    def __init__(self, path: Path, store_url: str = "") -> None:
        """Open a folder.

        Args:
            path: of the run.
            store_url: where its blobs are, if not in `store/`. Never taken from the folder, which may name any domain.

        Raises:
            RunDirectoryError: there is no run.
            StoreError: the store cannot be opened.
        """
        self.path = path
        if not (path / "task.json").is_file():
            raise RunDirectoryError(f"{path} holds no run: task.json is missing")
        self._root = path.resolve()
        self._store = BlobStore(store_url) if store_url else None
        if not (store_url or (path / "store").is_dir()):
            raise RunDirectoryError(f"{path} has no store/; name the run's store with --store URL")

    def has(self, name: str) -> bool:
        """Whether a file of this name is there."""
        return (self.path / name).is_file()

    def read(self, name: str, max_bytes: int = MAX_JSON) -> bytes:
        """Content of a file.

        Raises:
            VerificationError: it is missing, too long, leads out of the folder or is no regular file.
        """
        path = self.path / name
        try:
            if not path.resolve().is_relative_to(self._root):
                raise VerificationError(f"{name} leads out of the folder")
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # a pipe would block
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise VerificationError(f"{name} is no regular file")
                if status.st_size > max_bytes:
                    raise VerificationError(f"{name} is longer than the {max_bytes} bytes allowed")
                data = file.read(max_bytes)
        except FileNotFoundError:
            raise VerificationError(f"{name} is missing") from None
        except (OSError, RuntimeError) as error:
            raise VerificationError(f"{name} cannot be read ({type(error).__name__})") from None
        return data

    def json(self, name: str) -> dict[str, Any]:
        """Content of a JSON file that holds an object."""
        return self._object(name, lambda text: parse_json(text, MAX_DEPTH))

    def config(self) -> dict[str, Any]:
        """Content of `config.yaml`."""
        return self._object("config.yaml", _parse_yaml, MAX_CONFIG)

    def _object(self, name: str, parse: Callable[[str], Any], max_bytes: int = MAX_JSON) -> dict[str, Any]:
        try:
            value = parse(self.read(name, max_bytes).decode())
        except (ValueError, yaml.YAMLError) as error:
            raise VerificationError(f"{name} does not parse ({type(error).__name__})") from None
        if not isinstance(value, dict):
            raise VerificationError(f"{name} holds no object")
        return value

    def blob(self, digest: bytes, max_bytes: int) -> bytes | None:
        """Blob of this SHA-256; None when it is not there or longer.

        Raises:
            VerificationError: the bytes stored under this hash do not have it.
            StoreError: the store cannot be read.
        """
        name = f"store/{digest.hex()[:2]}/{digest.hex()}"
        if self._store:
            try:
                return self._store.get(digest, max_bytes)
            except (BlobMissingError, BlobTooLargeError):
                return None
        if not self.has(name):
            return None
        if (self.path / name).stat().st_size > max_bytes:
            return None
        data = self.read(name, max_bytes)
        if sha256(data) != digest:
            raise VerificationError(f"blob {digest.hex()} has other bytes than its hash says")
        return data

    def lacking(self, what: str) -> RunDirectoryError | VerificationError:
        """The error for a blob that is not in the store: of a run that says it was pruned, it proves nothing."""
        store = self.config().get("store")
        if isinstance(store, dict) and store.get("keep") == "adapter":
            return RunDirectoryError(
                f"this run's store was pruned by store.keep=adapter: {what} is gone, with all else that a replay reads,"
                " so the run can be neither verified nor refuted without a full copy of its store (--store URL)"
            )
        return VerificationError(f"{what} is not in the store")


class UsageFolder(RunFolder):
    """Reads the files of a batch of usage by name."""

    def __init__(self, path: Path) -> None:
        """Open a folder.

        Raises:
            RunDirectoryError: there is no batch.
        """
        if not (path / "batch.json").is_file():
            raise RunDirectoryError(f"{path} holds no batch of usage: batch.json is missing")
        self.path, self._root, self._store = path, path.resolve(), None


def _parse_yaml(text: str) -> Any:
    """The value of a YAML text; before the loader recurses, deep nesting and aliases are refused."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise ValueError("YAML that nests deeply or refers to itself")
    return yaml.safe_load(text)
