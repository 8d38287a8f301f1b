from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.chain.journal import Block, ChainJournal, Genesis, read_genesis
from flock_ray.errors import RunDirectoryError

GENESIS = Genesis("anvil", 31_337, 1_700_000_000, {"0x" + "11" * 20: 10**21})
BLOCKS = [Block(i, 1_700_000_000 + i, (bytes([i]) * 20, bytes([i]) * 21), bytes([i]) * 32) for i in (1, 2, 3)]


def reopen(folder: Path) -> list[Block]:
    journal = ChainJournal(folder, GENESIS)
    journal.close()
    return journal.blocks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    journal = ChainJournal(tmp_path / "chain", GENESIS)
    for block in BLOCKS:
        journal.append(block)
    journal.close()
    return tmp_path / "chain"


def test_what_was_written_is_read(folder: Path) -> None:
    assert reopen(folder) == BLOCKS
    assert read_genesis(folder) == GENESIS
    assert read_genesis(folder / "elsewhere") is None


@pytest.mark.parametrize("cut", [1, 2, 50, 300])
def test_a_torn_last_line_is_dropped_for_good(folder: Path, cut: int) -> None:
    path = folder / "blocks.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    kept = reopen(folder)
    assert kept == BLOCKS[: len(kept)] and len(kept) < 3
    journal = ChainJournal(folder, GENESIS)
    journal.append(BLOCKS[len(kept)])
    journal.close()
    assert reopen(folder) == BLOCKS[: len(kept) + 1]


def test_a_block_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    journal = ChainJournal(tmp_path, GENESIS)
    journal.append(BLOCKS[0])
    assert (tmp_path / "blocks.jsonl").read_bytes() == BLOCKS[0].to_line()
    journal.close()


def test_damage_before_the_last_line_is_refused(folder: Path) -> None:
    path = folder / "blocks.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for damaged in (["{}\n", *lines[1:]], lines[1:], [lines[0], lines[2], lines[1]], ["[1]\n", *lines]):
        path.write_text("".join(damaged))
        with pytest.raises(RunDirectoryError, match=r"blocks\.jsonl, line \d"):
            reopen(folder)


@pytest.mark.parametrize("change", [{"backend": "eth_tester"}, {"chain_id": 1}, {"alloc": {}}])
def test_the_folder_of_another_chain_is_refused(folder: Path, change: dict[str, object]) -> None:
    with pytest.raises(RunDirectoryError, match="another configuration"):
        ChainJournal(folder, replace(GENESIS, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"backend": "anvil"}'])
def test_a_damaged_genesis_is_refused(folder: Path, text: str) -> None:
    (folder / "genesis.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"genesis\.json"):
        reopen(folder)


def test_two_owners_are_one_too_many(folder: Path) -> None:
    first = ChainJournal(folder, GENESIS)
    with pytest.raises(RunDirectoryError, match="another process"):
        ChainJournal(folder, GENESIS)
    first.close()
    assert reopen(folder) == BLOCKS


def test_a_full_disk_is_one_line_and_the_blocks_before_it_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    journal = ChainJournal(folder, GENESIS)
    with (
        monkeypatch.context() as patch,
        pytest.raises(RunDirectoryError, match=r"jsonl cannot be written: no space"),
    ):
        patch.setattr(os, "fsync", full)
        journal.append(Block(4, 1_700_000_004, (b"\4" * 40,), b"\4" * 32))
    journal.close()
    assert reopen(folder)[:3] == BLOCKS
