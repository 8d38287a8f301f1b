"""Owners' own conversations end to end, and where their text must never show up."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.runs import Head, Run, processes, tiny

pytestmark = pytest.mark.ray

CANARY = "zebrafinch{member:02}quartz"
"""Stands in every row of a member's file."""


class Watch:
    """An audit hook, on only while wanted (hooks cannot be taken away again)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.on, self.seen = str(folder), False, list[tuple[str, str]]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on:
            for one in arguments:
                if isinstance(one, (str, bytes, os.PathLike)) and self.folder in os.fsdecode(one):
                    self.seen.append((event, os.fsdecode(one)))


@pytest.fixture(scope="module")
def silos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small files of conversations."""
    folder = tmp_path_factory.mktemp("private")
    for member in range(8):
        canary = CANARY.format(member=member)
        with (folder / f"owner-{member}.jsonl").open("w") as file:
            for row in range(60):
                question = {"role": "user", "content": f"What is {row} plus {member}?"}
                answer = {"role": "assistant", "content": f"{canary} says {row + member}."}
                key = "messages" if member % 2 else "conversations"
                file.write(json.dumps({"system": canary, key: [question, answer]}) + "\n")
            if member == 3:
                file.write(json.dumps({"question": canary}) + "\n")  # a bad row
    return folder


@pytest.fixture(scope="module")
def watch(silos: Path) -> Watch:
    return Watch(silos)


@pytest.fixture(scope="module")
def private_run(
    head: Head, watch: Watch, silos: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    data = ["data=jsonl", f"data.path={silos}/*.jsonl", "data.sequence_length=96"]
    watch.on = True
    try:
        return head.run(tmp_path_factory.mktemp("runs"), *tiny(tiny_model_dir, *data))
    finally:
        watch.on = False


def test_conversations_train(private_run: Run, silos: Path) -> None:
    members = private_run.summary["members"]
    assert [member["silo"] for member in members] == [file.stem for file in sorted(silos.iterdir())]
    assert [member["rows"]["read"] for member in members] == [60 + (number == 3) for number in range(8)]
    assert [member["rows"]["bad"] for member in members] == [int(number == 3) for number in range(8)]
    assert all(member["rows"]["target_tokens"] > member["num_tokens"] for member in members)
    assert len(private_run.events("silo_opened")) == 8
    assert all(epoch["accepted"] for epoch in private_run.summary["epochs"])
    final = private_run.summary["epochs"][-1]["eval_loss_after"]
    before = private_run.summary["epochs"][0]["eval_loss_before"]
    assert all(loss < before[silo] - 0.02 for silo, loss in final.items())


def test_the_driver_never_looks_into_the_data(private_run: Run, watch: Watch, silos: Path) -> None:
    assert watch.seen == []
    watch.on = True
    (silos / "owner-0.jsonl").open().close()
    list(silos.iterdir())
    watch.on = False
    assert {event for event, _ in watch.seen} >= {"open", "os.listdir"}  # it does see what is done here
    watch.seen.clear()


def needles(tiny_model_dir: Path) -> list[bytes]:
    """The canaries as text and as the token ids that the model reads, 64 and 32 bits wide."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    texts = [CANARY.format(member=member) for member in range(8)]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    wide = [b"".join(one.to_bytes(size, "little") for one in row) for row in ids for size in (8, 4)]
    return [text.encode() for text in texts] + wide


def test_no_text_leaves_the_process_that_hosts_it(private_run: Run, head: Head, tiny_model_dir: Path) -> None:
    wanted = needles(tiny_model_dir)
    files = [path for root in (private_run.path, head.folder) for path in root.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".jsonl", ".json", ".html", ".safetensors", ".log", ".err"} <= kinds
    for file in files:
        with suppress(FileNotFoundError):
            found = [needle for needle in wanted if needle in file.read_bytes()]
            assert not found, f"{found} in {file}"


def test_no_text_is_in_the_object_store(private_run: Run, head: Head, tiny_model_dir: Path) -> None:
    wanted = needles(tiny_model_dir)
    memory = list(object_store(head))
    assert any(b'"ballot_a_commitment"' in part for part in memory)  # what the nodes were handed is still there
    assert not [needle for needle in wanted for part in memory if needle in part]


def object_store(head: Head) -> Iterator[bytes]:
    """What was written to the object store, objects already dropped included: to a file that the raylet holds open."""
    (raylet,) = (pid for pid, name in processes(head.process.mark).items() if "/raylet/raylet " in name)  # type: ignore[attr-defined]
    for link in Path(f"/proc/{raylet}/fd").iterdir():
        with suppress(FileNotFoundError):
            if "plasma" in os.readlink(link) and link.stat().st_size:
                with link.open("rb") as file:
                    yield from extents(file.fileno())


def extents(file: int) -> Iterator[bytes]:
    """The parts of a sparse file that are no holes."""
    stop = 0
    with suppress(OSError):  # no data from here on
        while True:
            start = os.lseek(file, stop, os.SEEK_DATA)
            stop = os.lseek(file, start, os.SEEK_HOLE)
            yield os.pread(file, stop - start, start)
