"""An attacker who may change anything in a run's folder and recompute every unsigned hash is caught, and told where."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from flock_ray.errors import RunDirectoryError, VerificationError
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.inbox import parse_message
from flock_ray.verify.candidate import Payloads
from flock_ray.verify.chain import replayed_chain
from flock_ray.verify.epoch import replay
from flock_ray.verify.folder import RunFolder
from tests.verify.forger import Forger
from tests.verify.forgeries import FORGERIES

if TYPE_CHECKING:
    from tests.runs import Run

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_a_forger_is_caught(whole_run: Run, tmp_path: Path, name: str) -> None:
    forge, caught = FORGERIES[name]
    forger = Forger(whole_run.path, tmp_path / "run")
    forge(forger)
    with pytest.raises(VerificationError, match=caught) as refused:
        forger.verify()
    assert "\n" not in str(refused.value)


def test_the_run_itself_holds_and_so_does_its_anchor(whole_run: Run, tmp_path: Path) -> None:
    forger = Forger(whole_run.path, tmp_path / "run")
    lines = forger.verify()
    anchor = next(line.split()[1] for line in lines if line.startswith("anchor"))
    assert [line.split()[0] for line in lines[:-1]] == [
        "genesis", "anchor", "contracts", "members", "epoch", "epoch", "adapter", "summary", "settled", "money"
    ]  # fmt: skip
    assert "is the one given" in "".join(forger.verify(anchor))
    with pytest.raises(VerificationError, match="anchor of the run: claimed"):
        forger.verify("0x" + "00" * 32)


def test_rereading_and_resealing_alone_forge_nothing(whole_run: Run, tmp_path: Path) -> None:
    """The forger's tools keep a true run true, so what is caught is the forgery."""
    forger = Forger(whole_run.path, tmp_path / "run")
    forger.rederive()
    forger.remine(lambda number, raw: [raw])
    forger.verify()


def test_a_quorum_that_signed_another_candidate_or_verdict_is_caught_by_the_payloads(
    whole_run: Run, tmp_path: Path
) -> None:
    """What no forger without keys can write: here the replay itself is changed."""
    forger = Forger(whole_run.path, tmp_path / "run")
    messages = [parse_message(forger.blob(name).read_bytes()) for name in forger.read("receipts/1.json")["messages"]]
    replayed = replay(forger.first_state(), messages)
    folder, terms = RunFolder(forger.path), replayed.state.terms
    assert Payloads(folder, terms).check(replayed) == len(replayed.proposals)
    heavier = tuple((member, 2 * weight + member) for member, weight in replayed.candidate.weights)
    slandered = tuple(replace(verdict, status="malformed") for verdict in replayed.proposals)
    for changed, caught in (
        (
            replace(replayed, candidate=replace(replayed.candidate, adapter=sha256(b"mine"))),
            "candidate adapter from the",
        ),
        (replace(replayed, candidate=replace(replayed.candidate, weights=heavier)), "candidate weights"),
        (replace(replayed, proposals=slandered), "judged malformed, decodes"),
    ):
        with pytest.raises(VerificationError, match=caught):
            Payloads(folder, terms).check(changed)
    with pytest.raises(VerificationError, match="is malformed"):
        Payloads(folder, replace(terms, wire_format_parameters={"max_abs": 0})).check(replayed)


# Whatever is written in a file, it is checked or known to be free.

FREE = re.compile(
    r"(task\.json|receipts/1\.json|summary\.json)"
    r"(\.run_id|\.model|\.wall_seconds|\.epochs\.\d+\.(eval_\w+|factor_averaging_error|training|wall_seconds)"
    r"|(\.epochs\.\d+\.proposals|\.members)\.\d+\.silo|\.members\.\d+\.(num_tokens|rows)|\.chain\.backend"
    r"|\.run\.(model_dtype|num_parameters|placement|load_seconds|versions))(\..*)?"
)
"""What `docs/verify.md` says that nobody outside can check."""


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all values of a JSON text that are no containers."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not value or not isinstance(value, dict | list):
        yield path
    for key, item in inner:
        yield from leaves(item, (*path, key))


def other(value: Any) -> Any:
    """A value like this one, but another."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str) and value.startswith("0x"):
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    return f"{value}x" if isinstance(value, str) else 7


@pytest.mark.parametrize("name", ["task.json", "records/1.json", "receipts/1.json", "summary.json"])
def test_every_value_is_checked_or_known_to_be_free(
    whole_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    forger = Forger(whole_run.path, tmp_path / "run")
    chain = replayed_chain(RunFolder(forger.path))
    monkeypatch.setattr("flock_ray.verify.on_chain.replayed_chain", lambda folder: chain)  # the same one each time
    whole = forger.read(name)
    random = Random(7)
    for path in random.sample(list(leaves(whole)), 15):
        value = json.loads(json.dumps(whole))
        owner = value
        for key in path[:-1]:
            owner = owner[key]
        for wrong in (other(owner[path[-1]]), random.choice([None, [], {}, -1, "", 10**90, "0x", [[]], True])):
            if wrong == owner[path[-1]]:
                continue
            owner[path[-1]] = wrong
            forger.write(name, value)
            where = ".".join(map(str, (name, *path)))
            if FREE.fullmatch(where):
                forger.verify()
            else:
                with pytest.raises((VerificationError, RunDirectoryError)):
                    forger.verify()
                    pytest.fail(f"{where} = {wrong!r} passes")


# Hostile folders.


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def out(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


HOSTILE: dict[str, Callable[[Path], object]] = {
    "deep": lambda path: path.write_text("[" * 10**6),
    "deep yaml": lambda path: path.write_text("a: " + "[" * 10**5),
    "empty": lambda path: path.write_text(""),
    "list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "no object in it": lambda path: path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text())))),
    "numbers": lambda path: path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), -(10**40)))),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
    "huge": lambda path: os.truncate(path, 1 << 40),
    "a pipe": pipe,
    "out of the folder": out,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
FILES = ["task.json", "config.yaml", "records/1.json", "receipts/2.json", "summary.json", "chain/genesis.json",
         "chain/blocks.jsonl", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"]  # fmt: skip


@pytest.mark.usefixtures("lifted_recursion_limit")
@pytest.mark.parametrize("name", FILES)
def test_hostile_files_end_in_one_line(whole_run: Run, tmp_path: Path, name: str) -> None:
    forger = Forger(whole_run.path, tmp_path / "run")
    path = forger.path / name
    whole = path.read_bytes()
    for spoil in HOSTILE.values():
        try:
            spoil(path)
        except (ValueError, AttributeError):  # not for this kind of file
            continue
        with pytest.raises((VerificationError, RunDirectoryError)) as refused:
            forger.verify()
        assert "\n" not in str(refused.value)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.write_bytes(whole)
