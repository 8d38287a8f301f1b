"""Documents that answers cite: kept by account, cut into passages, found by BM25 (Robertson and Zaragoza 2009).

A source is one file, `<account>/<id>.json`, which only the operator's user can read; its index is made when it is first
searched. An account never sees another's sources: its folder is named by the key's account, not by the request.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bm25s

from flock_ray.errors import RequestError

MOST_SOURCES = 64  # of an account
MOST_DOCUMENTS = 256  # of a source
MOST_CHARACTERS = 1 << 20  # of a source
PASSAGE = 600  # characters, about: passages end at the end of a paragraph, a sentence or a word
_CACHED = 32  # indices in memory
_ID = re.compile(r"ks-[0-9a-f]{32}")
_TOKENS = re.compile(r"\w+")
_BREAKS = (re.compile(r"\n\s*\n"), re.compile(r"(?<=[.!?。\uff01\uff1f])\s+|\n"), re.compile(r"\s+"))


class UnknownSourceError(RequestError):
    """An account has no source of documents with that id: 404."""


@dataclass(frozen=True)
class Document:
    """A text with its name."""

    name: str
    text: str


@dataclass(frozen=True)
class Passage:
    """A part of a document.

    Attributes:
        document: number of it in the source, from 0.
        name: of the document.
        start: of the passage in the document's text, in characters (Unicode code points).
        end: the same, exclusive.
        text: of the passage.
        score: BM25's.
    """

    document: int
    name: str
    start: int
    end: int
    text: str
    score: float = 0.0


@dataclass(frozen=True)
class SourceInfo:
    """A source, without its documents."""

    id: str
    name: str
    created: int
    documents: int
    characters: int


def passages_of(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the passages of a text, without white space around them: every other character is in one."""
    start = 0
    while start < len(text):
        end = _cut(text, start)
        inner = text[start:end]
        left = len(inner) - len(inner.lstrip())
        if inner.strip():
            yield start + left, start + left + len(inner.strip())
        start = end


def _cut(text: str, start: int) -> int:
    """Where a passage ends that begins there: at the last break that fits, the larger the better."""
    limit = start + PASSAGE
    if limit >= len(text):
        return len(text)
    for kind in _BREAKS:
        ends = [found.end() for found in kind.finditer(text, start + PASSAGE // 2, limit)]
        if ends:
            return ends[-1]
    return limit


def words_of(text: str) -> list[str]:
    """What is searched by: words in lower case, and for scripts without spaces pairs of neighbouring letters too."""
    words = _TOKENS.findall(text.lower())
    pairs = [word[at : at + 2] for word in words if not word.isascii() for at in range(len(word) - 1)]
    return words + pairs


class _Index:
    """The passages of a source, and where words are in them."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._passages = [
            Passage(number, document.name, start, end, document.text[start:end])
            for number, document in enumerate(documents)
            for start, end in passages_of(document.text)
        ]
        self._found = bm25s.BM25()
        self._found.index([words_of(passage.text) for passage in self._passages], show_progress=False)

    def search(self, query: str, most: int) -> list[Passage]:
        """Passages that share a word with the query, the best first; of equal ones the earlier."""
        known = self._found.vocab_dict
        words = sorted({word for word in words_of(query) if word in known})
        if not words:
            return []
        scores = self._found.get_scores(words)
        best = sorted(range(len(self._passages)), key=lambda at: (-float(scores[at]), at))[:most]
        return [
            Passage(**{**asdict(self._passages[at]), "score": float(scores[at])}) for at in best if scores[at] > 0
        ]  # fmt: skip


class Knowledge:
    """Sources of documents in a folder; blocking, safe from any thread and for several processes."""

    def __init__(self, folder: Path) -> None:
        """Keep sources in this folder, which is made."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._indices: OrderedDict[tuple[bytes, str], _Index] = OrderedDict()
        self._lock, self._building = threading.Lock(), threading.Lock()

    def create(self, account: bytes, name: str, documents: Sequence[Document], created: int) -> SourceInfo:
        """Keep a source.

        Raises:
            RequestError: it has no text or too much, or the account has too many.
        """
        characters = sum(len(document.text) for document in documents)
        if not any(document.text.strip() for document in documents):
            raise RequestError("the documents have no text")
        if characters > MOST_CHARACTERS:
            raise RequestError(f"the documents have {characters:,} characters; at most {MOST_CHARACTERS:,} may be")
        folder = self._folder / account.hex()
        folder.mkdir(mode=0o700, exist_ok=True)
        if len(list(folder.glob("ks-*.json"))) >= MOST_SOURCES:
            raise RequestError(f"the account has {MOST_SOURCES} sources, as many as it may: delete one")
        info = SourceInfo(f"ks-{secrets.token_hex(16)}", name, created, len(documents), characters)
        kept = {**asdict(info), "texts": [[document.name, document.text] for document in documents]}
        draft = folder / f".{info.id}.part"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(kept, file, ensure_ascii=False)
        os.replace(draft, folder / f"{info.id}.json")
        return info

    def sources(self, account: bytes) -> list[SourceInfo]:
        """The sources of an account, the oldest first."""
        found = []
        for path in (self._folder / account.hex()).glob("ks-*.json"):
            try:
                found.append(_info(json.loads(path.read_text(encoding="utf-8"))))
            except FileNotFoundError:  # deleted meanwhile
                continue
        return sorted(found, key=lambda info: (info.created, info.id))

    def delete(self, account: bytes, source: str) -> None:
        """Forget a source.

        Raises:
            UnknownSourceError: the account has none of that id.
        """
        path = self._path(account, source)
        path.unlink(missing_ok=True)
        with self._lock:
            self._indices.pop((account, source), None)

    def delete_all(self, account: bytes) -> None:
        """Forget all sources of an account."""
        shutil.rmtree(self._folder / account.hex(), ignore_errors=True)

    def search(self, account: bytes, source: str, query: str, most: int) -> list[Passage]:
        """The passages of a source that fit a query best.

        Raises:
            UnknownSourceError: the account has no source of that id.
        """
        path, key = self._path(account, source), (account, source)
        index = self._index_of(key)
        if index is None:
            with self._building:  # it takes a core for a second: one after the other, and each once
                index = self._index_of(key) or self._build(path, key)
        return index.search(query, most)

    def _index_of(self, key: tuple[bytes, str]) -> _Index | None:
        with self._lock:
            index = self._indices.get(key)
            if index is not None:
                self._indices.move_to_end(key)
            return index

    def _build(self, path: Path, key: tuple[bytes, str]) -> _Index:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise _unknown() from None
        index = _Index([Document(name, text) for name, text in kept["texts"]])
        with self._lock:
            self._indices[key] = index
            while len(self._indices) > _CACHED:
                self._indices.popitem(last=False)
        return index

    def _path(self, account: bytes, source: str) -> Path:
        path = self._folder / account.hex() / f"{source}.json"
        if not _ID.fullmatch(source) or not path.is_file():
            raise _unknown()
        return path


def _info(kept: dict[str, object]) -> SourceInfo:
    fields = {name: kept[name] for name in ("id", "name", "created", "documents", "characters")}
    return SourceInfo(**fields)  # type: ignore[arg-type]


def _unknown() -> UnknownSourceError:
    return UnknownSourceError("the account has no source of documents with that id")
