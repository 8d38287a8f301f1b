"""Whose file is whose, and the rows in a file: JSON lines or one JSON array, also compressed, or a table."""

from __future__ import annotations

import glob
import gzip
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from flock_ray.errors import DataError
from flock_ray.protocol.encoding import parse_json
from flock_ray.training.formats import MAX_DEPTH, BadRowError, Row, read_row
from flock_ray.training.tables import TABLES, table_rows

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_COMPRESSED = {".gz", ".zst"}
_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_ENDS = {*_SUFFIXES, *TABLES}
_BLANK = b" \t\r\n\xef\xbb\xbf"


def natural(path: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key by which member-2 comes before member-10; m01 and m1, equal numbers, are told apart by the letters."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path)], path


def _uncompressed(file: Path) -> Path:
    """The name of a file without the suffix of its compression."""
    return file.with_suffix("") if file.suffix in _COMPRESSED else file


def stem(file: Path) -> str:
    """The name of a file without what its format and its compression add: `ann` of `ann.jsonl.gz`."""
    return _uncompressed(file).stem


def _is_data(file: Path) -> bool:
    """Whether a file that nobody names is taken for data, by the end of its name."""
    known = _uncompressed(file).suffix in _SUFFIXES or file.suffix in TABLES
    return known and not file.name.startswith(".") and not file.is_dir()


def files_of(path: str) -> list[Path]:
    """The files that a glob or a folder stands for, in natural order: file i is member i's.

    Of a folder these are the files whose names end as data does (.jsonl, .json, .csv, .parquet, … also .gz and .zst).

    Raises:
        DataError: a glob matches something else as well.
    """
    expanded = os.path.expanduser(path)
    if os.path.isdir(expanded):
        found = [str(file) for file in Path(expanded).iterdir() if _is_data(file) and file.is_file()]
    elif os.path.isfile(expanded):
        found = [expanded]
    else:
        found = glob.glob(expanded, recursive=True)
        if other := min((name for name in found if not _is_data(Path(name))), default=""):
            raise DataError(
                f"{path} matches {other}, which is no file of a name that ends as data does"
                f" ({', '.join(sorted(_ENDS))}); narrow it, as in '/data/*.jsonl', or give the folder, of which only"
                " data is taken"
            )
    return [Path(name) for name in sorted(found, key=natural)]


def entry(path: Mapping[Any, Any], member: int) -> str:
    """The member's entry of a mapping.

    Raises:
        DataError: it has none.
    """
    named = {str(key): value for key, value in path.items()}
    if str(member) not in named:
        raise DataError(f"data.path has no entry for member {member}; it names members {', '.join(sorted(named))}")
    return str(named[str(member)])


class SiloFiles:
    """Whose file is whose: file number i of a glob or a folder, or the entry of a mapping, is member i's.

    A glob or a folder is looked through once, here: a file that comes later moves nobody's.
    """

    def __init__(self, path: Any) -> None:
        """Look through the path.

        Raises:
            DataError: as `files_of`.
        """
        self._path = path
        self._files = [] if isinstance(path, Mapping) else files_of(str(path))

    def of(self, member: int) -> Path:
        """The member's file.

        Raises:
            DataError: there is none.
        """
        path, files = self._path, self._files
        if isinstance(path, Mapping):
            file = Path(os.path.expanduser(entry(path, member)))
        elif not files:
            raise DataError(f"data.path={path!s} matches no file; give a folder, or a glob such as '/data/*.jsonl'")
        elif member >= len(files):
            raise DataError(
                f"data.path={path!s} matches {len(files)} files, none for member {member}; lower alliance.num_members"
            )
        else:
            file = files[member]
        if not file.is_file():
            raise DataError(f"data.path: {file} (member {member}) is no file")
        return file


def _value(text: bytes) -> Any:
    """The JSON value in a line or a file."""
    try:
        return parse_json(text.decode("utf-8-sig"), MAX_DEPTH)
    except UnicodeDecodeError:
        raise BadRowError("not UTF-8 text") from None
    except ValueError:
        raise BadRowError("malformed JSON; each line is one JSON object, or the file one JSON array of them") from None


def _open(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(file, "rb"))
    return cast("IO[bytes]", zstd.open(file, "rb")) if file.suffix == ".zst" else file.open("rb")


def _lines(file: Path) -> Iterator[tuple[str, bytes]]:
    """(where, text) of each row of a JSON file; a file that begins with `[` is one row, the whole of it."""
    with _open(file) as stream:
        begun = False
        for number, line in enumerate(stream, start=1):
            if text := line.strip(_BLANK):
                if not begun and text.startswith(b"["):
                    yield "", line + stream.read()
                    return
                begun = True
                yield f"{number}", line


def values(file: Path) -> Iterator[tuple[str, Any]]:
    """(where, value) of each row of a file, where `file:line` or `file: row n`; a bad row's value is its BadRowError.

    Raises:
        DataError: the file cannot be read, or is a table and the package for those is missing.
    """
    try:
        if file.suffix in TABLES:
            yield from ((f"{file}: row {number}", row) for number, row in enumerate(table_rows(file), start=1))
            return
        for where, text in _lines(file):
            try:
                value = _value(text)
            except BadRowError as bad:
                value = bad
            if where:
                yield f"{file}:{where}", value
            elif isinstance(value, list):
                yield from ((f"{file}: row {number}", row) for number, row in enumerate(value, start=1))
            else:
                yield f"{file}:1", value
    except (OSError, EOFError, zlib.error, zstd.ZstdError) as error:
        reason = getattr(error, "strerror", None) or "not what the end of its name says, or cut off"
        raise DataError(f"data.path: {file} cannot be read: {reason}") from None


def rows(file: Path) -> Iterator[tuple[str, Row | BadRowError]]:
    """(where, row) of each row of a file; needs no model. A bad row is its BadRowError.

    Raises:
        DataError: as `values`.
    """
    for where, value in values(file):
        try:
            yield where, value if isinstance(value, BadRowError) else read_row(value)
        except BadRowError as bad:
            yield where, bad
