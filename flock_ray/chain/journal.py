"""The files from which an embedded chain is rebuilt: its genesis, and each block's timestamp and raw transactions.

`genesis.json` is written once; `blocks.jsonl` gets one line per block, on disk before the block is reported mined. A
line that was cut off by a crash is a block that nobody saw, and is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from flock_ray.errors import RunDirectoryError
from flock_ray.store.failures import run_folder_errors


@dataclass(frozen=True)
class Genesis:
    """The content of block 0.

    Attributes:
        backend: `eth_tester` or `anvil`; a chain is rebuilt on the backend that made it.
        chain_id: id of the chain.
        timestamp: of block 0.
        alloc: address -> gas money, wei.
    """

    backend: str
    chain_id: int
    timestamp: int
    alloc: dict[str, int]


@dataclass(frozen=True)
class Block:
    """A block with its transactions.

    Attributes:
        number: 1-based.
        timestamp: chain time.
        raws: the signed transactions, in their order.
        hash: block hash, which covers the state and the receipts.
    """

    number: int
    timestamp: int
    raws: tuple[bytes, ...]
    hash: bytes

    def to_line(self) -> bytes:
        """One line of `blocks.jsonl`."""
        raws = [raw.hex() for raw in self.raws]
        fields = {"number": self.number, "timestamp": self.timestamp, "raws": raws, "hash": self.hash.hex()}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Parse a line.

        Raises:
            ValueError, KeyError, TypeError: it is no block.
        """
        fields = json.loads(line)
        number, timestamp = int(fields["number"]), int(fields["timestamp"])
        return cls(number, timestamp, tuple(map(bytes.fromhex, fields["raws"])), bytes.fromhex(fields["hash"]))


class ChainJournal:
    """Reads and writes the two files.

    Attributes:
        genesis: of this chain, as the folder has it.
        blocks: read at the start, in order; empty for a new chain.
    """

    def __init__(self, folder: Path, genesis: Genesis) -> None:
        """Open or create the journal of `genesis` in `folder`.

        Raises:
            RunDirectoryError: the folder holds another chain, or damaged files, or another process has it open.
        """
        self.genesis = genesis
        self._path = folder / "blocks.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        stored = read_genesis(folder)
        if stored is None:
            write_durably(folder / "genesis.json", json.dumps(asdict(genesis), indent=1).encode())
        elif stored != genesis:
            raise RunDirectoryError(f"{folder} holds a chain of another configuration (see genesis.json there)")
        self._file = self._path.open("ab")
        try:
            self._lock()
            self.blocks = self._read()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunDirectoryError(f"another process runs the chain in {self._path.parent}") from None

    def _read(self) -> list[Block]:
        lines = self._path.read_bytes().splitlines(keepends=True)
        blocks: list[Block] = []
        for number, line in enumerate(lines, start=1):
            try:
                block = Block.from_line(line)
                if block.number != number or not line.endswith(b"\n"):
                    raise ValueError("not the next whole line")
            except (ValueError, KeyError, TypeError):
                if number < len(lines):
                    raise RunDirectoryError(f"{self._path}, line {number}: not the chain's block {number}") from None
                os.truncate(self._path, sum(map(len, lines[:-1])))
            else:
                blocks.append(block)
        return blocks

    def append(self, block: Block) -> None:
        """Write a block to disk.

        Raises:
            RunDirectoryError: the disk is full, say.
        """
        with run_folder_errors(self._path):
            self._file.write(block.to_line())
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_genesis(folder: Path) -> Genesis | None:
    """The genesis that `folder` holds, None if it holds no chain.

    Raises:
        RunDirectoryError: the file is damaged.
    """
    path = folder / "genesis.json"
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
        return Genesis(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise RunDirectoryError(f"{path}: not the genesis of an embedded chain") from None


def write_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and onto the disk."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
