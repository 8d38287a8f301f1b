"""What a member has signed: written down before the signature leaves, so that no retry or resume ever equivocates."""

from __future__ import annotations

import json
import os
from pathlib import Path

from flock_ray.errors import ProtocolError
from flock_ray.store.batch import Batch
from flock_ray.store.failures import store_error

_EpochKey = tuple[str, int, str]


class SlashingProtection:
    """Append-only file of (task, epoch, seed, kind) -> digest, owned by one member in one process.

    The same digest may be signed again; another digest for the same place is refused. An epoch that runs again after
    an abandoned one has another seed, and so is another place. Only one epoch's places are held in memory.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create `folder/slashing_protection.jsonl`; a last line that a crash cut short is dropped."""
        self._path = folder / "slashing_protection.jsonl"
        self._newest: dict[str, int] = {}  # of each task: nothing of a later epoch is in the file
        self._place: _EpochKey | None = None
        self._signed: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            data = self._path.read_bytes() if self._path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                os.truncate(self._path, len(whole))
        except OSError as error:
            raise store_error(error, "read", str(self._path)) from error
        for line in whole.splitlines():
            task, epoch, *_ = json.loads(line)
            self._newest[task] = max(epoch, self._newest.get(task, 0))

    def _at(self, task: bytes, epoch: int, seed: bytes) -> dict[str, str]:
        """{kind: digest} of one epoch, read from the file unless it is the one that was asked for last."""
        place = (task.hex(), epoch, seed.hex())
        if place != self._place:
            self._place, self._signed = place, {}
            if epoch <= self._newest.get(place[0], -1):
                for line in self._path.read_bytes().splitlines():
                    *key, kind, digest = json.loads(line)
                    if tuple(key) == place:
                        self._signed[kind] = digest
        return self._signed

    def record(self, task: bytes, epoch: int, seed: bytes, kind: str, digest: bytes, batch: Batch) -> None:
        """Note that `digest` is about to be signed; it may be once `batch` is left.

        Raises:
            ProtocolError: another digest was signed in this place before.
        """
        signed = self._at(task, epoch, seed)
        known = signed.get(kind)
        if known == digest.hex():
            return
        if known is not None:
            raise ProtocolError(f"refusing to sign a second {kind} of epoch {epoch}: {self._path} holds another digest")
        place = (task.hex(), epoch, seed.hex())
        batch.append(self._path, json.dumps([*place, kind, digest.hex()]).encode() + b"\n")
        signed[kind] = digest.hex()
        self._newest[place[0]] = max(epoch, self._newest.get(place[0], 0))

    def signed(self, task: bytes, epoch: int, seed: bytes) -> dict[str, bytes]:
        """{kind: digest} of what was signed in an epoch."""
        return {kind: bytes.fromhex(digest) for kind, digest in self._at(task, epoch, seed).items()}
