"""Whose file is whose, and the rows in it; needs no model."""

from __future__ import annotations

import errno
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flock_ray.errors import DataError
from flock_ray.training.files import SiloFiles, files_of, rows, stem, values
from flock_ray.training.formats import BadRowError, PlainText

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Write = Callable[..., Path]
GOOD = b'{"text": "a"}'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(name: str, data: bytes = GOOD) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return made


def test_natural_order(write: Write, tmp_path: Path) -> None:
    names = [f"member-{number}.jsonl" for number in range(12)]
    for name in sorted(names):
        write(name)
    assert [SiloFiles(f"{tmp_path}/*.jsonl").of(member).name for member in range(12)] == names
    assert [SiloFiles(str(tmp_path)).of(member).name for member in range(12)] == names


def test_a_folder_stands_for_the_data_in_it(write: Write, tmp_path: Path) -> None:
    names = ["a.jsonl", "b.json.gz", "c.jsonl.zst", "d.csv", "e.parquet", "f.ndjson"]
    for name in [*names, "README.md", ".hidden.jsonl", "LICENSE", "g.csv.gz"]:
        write(name)
    (tmp_path / "z.jsonl").mkdir()
    assert [file.name for file in files_of(str(tmp_path))] == names


@pytest.mark.parametrize("other", ["a.py", "notes.txt", "z.csv.gz"])
def test_a_glob_that_matches_something_else_is_refused(write: Write, tmp_path: Path, other: str) -> None:
    write("b.jsonl"), write(other)
    with pytest.raises(DataError, match=rf"matches .*{other}, which is no file of a name that ends as") as refusal:
        SiloFiles(f"{tmp_path}/*")
    assert "\n" not in str(refusal.value)
    assert files_of(f"{tmp_path}/*.jsonl") == [tmp_path / "b.jsonl"]
    assert files_of(str(tmp_path / other)) == [tmp_path / other]  # who names a file means it


def test_the_order_is_not_that_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["m001.jsonl", "m01.jsonl", "m1.jsonl", "m2.jsonl"]
    for listed in (names, names[::-1]):
        monkeypatch.setattr("glob.glob", lambda *_, now=listed, **__: now)
        assert files_of("*.jsonl") == [Path(name) for name in names]


@pytest.mark.parametrize("name", ["ann.v2.jsonl", "ann.v2.jsonl.gz", "ann.v2.json.zst", "ann.v2.csv"])
def test_the_name_of_a_silo(name: str) -> None:
    assert stem(Path("/data") / name) == "ann.v2"


def test_too_few_files(write: Write, tmp_path: Path) -> None:
    write("a.jsonl"), write("b.jsonl")
    with pytest.raises(DataError, match=r"matches 2 files, none for member 2; lower alliance\.num_members"):
        SiloFiles(f"{tmp_path}/*.jsonl").of(2)


def test_mapping_names_each_members_file(write: Write, tmp_path: Path) -> None:
    mapping = {1: str(write("silo.jsonl")), "0": str(tmp_path / "gone.jsonl"), 2: str(tmp_path)}
    assert SiloFiles(mapping).of(1) == tmp_path / "silo.jsonl"
    with pytest.raises(DataError, match=r"gone\.jsonl \(member 0\) is no file"):
        SiloFiles(mapping).of(0)
    with pytest.raises(DataError, match=r"\(member 2\) is no file"):
        SiloFiles(mapping).of(2)
    with pytest.raises(DataError, match="no entry for member 3; it names members 0, 1, 2"):
        SiloFiles(mapping).of(3)


def test_home_folder_is_understood(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("silo.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/silo.jsonl", {0: "~/silo.jsonl"}, "~"):
        assert SiloFiles(path).of(0) == tmp_path / "silo.jsonl"


@pytest.mark.parametrize("path", ["", "/nowhere/*.jsonl", "~nobody-by-this-name/x.jsonl", None, ["a.jsonl"]])
def test_no_files(path: Any) -> None:
    with pytest.raises(DataError, match="matches no file; give a folder, or a glob such as") as refusal:
        SiloFiles(path).of(0)
    assert "\n" not in str(refusal.value)


LINES = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n'
ARRAY = b' [{"text": "a"},\n {"text": "b"}]\n'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("lines.jsonl", LINES),
        ("lines.json", LINES),
        ("array.json", ARRAY),
        ("later.json", b"\n\n" + ARRAY),
        ("array.jsonl", b"\xef\xbb\xbf" + ARRAY.lstrip()),
        ("lines.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("array.json.gz", gzip.compress(ARRAY, mtime=0)),
        ("lines.jsonl.zst", zstd.compress(LINES)),
        ("two_frames.jsonl.zst", zstd.compress(LINES[:16]) + zstd.compress(LINES[16:])),
    ],
)
def test_kinds_of_files(write: Write, name: str, data: bytes) -> None:
    assert [row for _, row in rows(write(name, data))] == [PlainText("", "a"), PlainText("", "b")]


def test_where_rows_are(write: Write) -> None:
    lines, array = write("lines.jsonl", LINES), write("array.json", ARRAY)
    assert [where for where, _ in values(lines)] == [f"{lines}:1", f"{lines}:3"]
    assert [where for where, _ in values(array)] == [f"{array}: row 1", f"{array}: row 2"]


@pytest.mark.usefixtures("lifted_recursion_limit")
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"zanzibar", "malformed JSON; each line is one JSON object"),
        (GOOD[:-3], "malformed JSON"),
        (GOOD + GOOD, "malformed JSON"),
        (b'{"text":' + b"[" * 200_000, "malformed JSON"),
        (b'{"text": ' + b"9" * 10_000 + b"}", "malformed JSON"),
        (b'{"text": "zanzibar\xff"}', "not UTF-8"),
        (b'["zanzibar"]', "a row must be a JSON object"),
    ],
)
def test_malformed_lines(write: Write, bad: bytes, message: str) -> None:
    """A bad row is handed on with its place, so that others can still be read."""
    file = write("silo.jsonl", b"\n".join((GOOD, b"", bad, GOOD)))
    read = list(rows(file))
    assert [where for where, _ in read] == [f"{file}:1", f"{file}:3", f"{file}:4"]
    assert isinstance(read[1][1], BadRowError) and message in str(read[1][1])
    assert "zanzibar" not in str(read[1][1])
    assert isinstance(read[0][1], PlainText) and isinstance(read[2][1], PlainText)


def test_a_malformed_array_is_one_bad_row(write: Write) -> None:
    file = write("array.json", ARRAY[:-4])
    [(where, row)] = rows(file)
    assert where == f"{file}:1" and isinstance(row, BadRowError)


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
def test_not_what_the_name_says_or_cut_off(write: Write, name: str) -> None:
    packed = (gzip if name.endswith("gz") else zstd).compress(LINES * 1_000)
    for data in (LINES, packed[: len(packed) // 2]):
        with pytest.raises(DataError, match=rf"{name} cannot be read: not what the end of its name says, or cut off"):
            list(rows(write(name, data)))


def test_file_that_cannot_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    file = write("silo.jsonl")
    monkeypatch.setattr(Path, "open", refuse)  # file modes do not bind root
    with pytest.raises(DataError, match=r"silo\.jsonl cannot be read: Permission denied"):
        list(rows(file))


def test_rows_come_one_by_one(write: Write) -> None:
    """The first rows of a large file are there before the rest is read."""
    file = write("silo.jsonl", b"\n".join([json.dumps({"text": "a"}).encode()] * 3 + [b"\xff" * 1_000_000]))
    assert isinstance(next(iter(rows(file)))[1], PlainText)
