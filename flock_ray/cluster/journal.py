"""What a member has signed: written down before the signature leaves, so that no retry or resume ever equivocates."""

from __future__ import annotations

import json
import os
from pathlib import Path

from flock_ray.errors import ProtocolError


class Journal:
    """Append-only file of (task, epoch, seed, kind) -> digest, owned by one member in one process.

    The same digest may be signed again; another digest for the same place is refused. An epoch that runs again after
    an abandoned one has another seed, and so is another place.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create `folder/journal.jsonl`; a torn last line, from a crash while writing, is dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "journal.jsonl"
        self._signed: dict[tuple[str, int, str, str], str] = {}
        if self._path.exists():
            self._load()

    def _load(self) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(self._path, len(whole))
        for line in whole.splitlines():
            task, epoch, seed, kind, digest = json.loads(line)
            self._signed[task, epoch, seed, kind] = digest

    def record(self, task: bytes, epoch: int, seed: bytes, kind: str, digest: bytes) -> None:
        """Note that `digest` is about to be signed.

        Raises:
            ProtocolError: another digest was signed in this place before.
        """
        place = (task.hex(), epoch, seed.hex(), kind)
        known = self._signed.get(place)
        if known == digest.hex():
            return
        if known is not None:
            raise ProtocolError(
                f"refusing to sign a second {kind} of epoch {epoch}: the journal {self._path} holds another digest"
            )
        with self._path.open("ab") as file:
            file.write(json.dumps([*place, digest.hex()]).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._signed[place] = digest.hex()

    def signed(self, task: bytes, epoch: int, seed: bytes) -> dict[str, bytes]:
        """{kind: digest} of what was signed in an epoch."""
        epoch_place = (task.hex(), epoch, seed.hex())
        return {kind: bytes.fromhex(digest) for (*place, kind), digest in self._signed.items()
                if tuple(place) == epoch_place}  # fmt: skip
