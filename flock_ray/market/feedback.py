"""What users say of answers: thumbs and corrections, with consent and licence, in a store that is encrypted at rest.

    secret                                 64 random bytes: the key of AES-SIV (RFC 5297), of this store alone
    rows/<key>/<day>/<request>.sealed      one `Feedback`; <key> is a keyed hash of the API key's id

A request has one row of a key: who says something else later, withdraws consent say, replaces it.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from filelock import FileLock, Timeout

from flock_ray.errors import RateLimitedError, RequestError, StoreError
from flock_ray.market.licences import licence_name
from flock_ray.protocol.encoding import Json, canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.store.failures import store_error

SCHEMA = "flock_ray/feedback/1"
MAX_FEEDBACK = 1 << 17
MAX_TURNS = 256
ROLES = ("system", "user", "assistant")
PER_DAY = 1_000
"""New rows of a key in a day."""
PER_KEY = 20_000
"""Rows of a key in all: as many files a writer looks through."""
_DAY = 86_400
_SECRET_BYTES = 64
_LOCK_SECONDS = 30.0


@dataclass(frozen=True)
class Feedback:
    """What a user says of an answer.

    Attributes:
        request: id of the answer's request, 32 bytes.
        key: id of the API key that asked.
        model: hash of the adapter that answered, or of the base model.
        created: Unix seconds.
        messages: the conversation before the answer, as (role, content).
        answer: as it was given.
        rating: 1 or -1 for a thumb, 0 for none.
        correction: the answer that would have been right; empty for none.
        consent: whether the user lets the row be trained on.
        licence: that the user gives the row under.
    """

    request: bytes
    key: str
    model: bytes
    created: int
    messages: tuple[tuple[str, str], ...]
    answer: str
    rating: int
    correction: str
    consent: bool
    licence: str

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise RequestError(f"feedback: {problem}")

    @property
    def lesson(self) -> str:
        """The answer that it teaches: the correction, or an answer that was liked; empty if it teaches none."""
        return self.correction or (self.answer if self.rating > 0 else "")

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json({
            "schema": SCHEMA, "request": to_hex(self.request), "key": self.key, "model": to_hex(self.model),
            "created": self.created, "messages": [list(turn) for turn in self.messages], "answer": self.answer,
            "rating": self.rating, "correction": self.correction, "consent": self.consent, "licence": self.licence,
        })  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The feedback with these canonical bytes.

        Raises:
            ValueError: they are of none.
        """
        value: dict[str, Any] = parse_canonical(data, MAX_FEEDBACK)
        try:
            if value.pop("schema") != SCHEMA:
                raise ValueError(f"feedback has the schema {SCHEMA}")
            request, model = from_hex(value.pop("request")), from_hex(value.pop("model"))
            messages = tuple((role, content) for role, content in value.pop("messages"))
            return cls(request=request, model=model, messages=messages, **value)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"feedback has other fields than it should: {error}") from None


def _problem(said: Feedback) -> str:
    """What is wrong with feedback; empty if nothing is."""
    if any(type(one) is not bytes or len(one) != 32 for one in (said.request, said.model)):
        return "request and model are hashes of 32 bytes"
    texts = (said.key, said.answer, said.correction, said.licence)
    if any(type(text) is not str for text in texts) or not 0 < len(said.key) <= 128 or not said.key.isprintable():
        return "key, answer, correction and licence are texts"
    if type(said.created) is not int or not 0 <= said.created < 1 << 40:
        return "created is a time in Unix seconds"
    if type(said.rating) is not int or said.rating not in (-1, 0, 1) or type(said.consent) is not bool:
        return "rating is -1, 0 or 1, and consent true or false"
    if not said.rating and not said.correction.strip():
        return "it needs a rating, or a correction"
    with suppress(ValueError):
        if licence_name(said.licence) == said.licence:
            return _wrong_turn(said.messages) or _wrong_size(said)
    return f"licence {said.licence[:80]!r} is no name of a licence, such as cc0-1.0 or cc-by-4.0"


def _wrong_turn(messages: Sequence[Any]) -> str:
    if not 0 < len(messages) <= MAX_TURNS:
        return f"a conversation has 1 to {MAX_TURNS} messages"
    for number, turn in enumerate(messages):
        if type(turn) is not tuple or len(turn) != 2 or turn[0] not in ROLES or type(turn[1]) is not str:
            return f"message {number} is no text of {', '.join(ROLES)}"
    return "" if messages[-1][0] == "user" else "the last message before an answer is the user's"


def _wrong_size(said: Feedback) -> str:
    texts = (said.answer, said.correction, *(content for _, content in said.messages))
    try:
        size = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError:
        return "a text holds half a character (an unpaired surrogate)"
    if size > MAX_FEEDBACK // 4:
        return f"its texts have {size} bytes, more than {MAX_FEEDBACK // 4}"
    written = len(said.to_bytes())
    return f"it takes {written} bytes as JSON, more than {MAX_FEEDBACK}" if written > MAX_FEEDBACK else ""


class FeedbackStore:
    """The folder of a store. Any number of processes may read and write it."""

    def __init__(self, folder: Path, secret: Path | None = None, per_day: int = PER_DAY) -> None:
        """Open a store, or make it.

        Args:
            folder: of the store.
            secret: file of its key, where that is kept apart; made if it is not there.
            per_day: new rows that a key may add in a day.

        Raises:
            StoreError: it cannot be made, or the secret is none.
        """
        self.folder, self._per_day = folder, per_day
        self._rows = folder / "rows"
        with _disk(folder):
            self._rows.mkdir(parents=True, exist_ok=True)
            self._secret = _secret(secret or folder / "secret")
        self._cipher = AESSIV(self._secret)

    def add(self, said: Feedback) -> bool:
        """Keep feedback, in place of what the same key said of the same request; whether nothing was in its place.

        Raises:
            RateLimitedError: the key has added as much as it may in a day, or in all.
            StoreError: the disk is full, or another process holds the store.
        """
        day = said.created // _DAY
        own = self._rows / hmac.digest(self._secret, said.key.encode(), "sha256").hex()[:32]
        name = f"{said.request.hex()}.sealed"
        with _disk(self.folder), self._lock():
            before = [path for path in own.glob(f"*/{name}")]
            target = before[0] if before else own / str(day) / name
            if not before:
                self._require_room(own, day, said.created)
                target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_suffix(".part")
            draft.write_bytes(self._cipher.encrypt(said.to_bytes(), [_place(own.name, name)]))
            os.replace(draft, target)
        return not before

    def _require_room(self, own: Path, day: int, now: int) -> None:
        today = sum(1 for _ in (own / str(day)).glob("*.sealed"))
        if today >= self._per_day:
            raise RateLimitedError(f"a key adds at most {self._per_day} rows of feedback a day", _DAY - now % _DAY)
        if sum(1 for _ in own.glob("*/*.sealed")) >= PER_KEY:
            raise RateLimitedError(f"a key adds at most {PER_KEY} rows of feedback in all")

    def __iter__(self) -> Iterator[Feedback]:
        """All that is kept, in the order of the requests' ids.

        Raises:
            StoreError: a row is damaged, or of another store.
        """
        for path in sorted(self._rows.glob("*/*/*.sealed"), key=lambda path: (path.name, path.parts)):
            yield self._read(path)

    def _read(self, path: Path) -> Feedback:
        with _disk(path):
            sealed = path.read_bytes()
        try:
            return Feedback.from_bytes(self._cipher.decrypt(sealed, [_place(path.parent.parent.name, path.name)]))
        except (InvalidTag, ValueError):
            raise StoreError(f"{path} is damaged, or sealed with another secret than that of {self.folder}") from None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            with FileLock(self.folder / "lock", timeout=_LOCK_SECONDS):
                yield
        except Timeout:
            raise StoreError(f"another process has written {self.folder} for {_LOCK_SECONDS:g} seconds") from None


def row_of(said: Feedback) -> Mapping[str, Json]:
    """Feedback as a row of a silo: the conversation and the answer that it teaches, and nothing of who said it."""
    turns = [*said.messages, ("assistant", said.lesson)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _place(key: str, name: str) -> bytes:
    return f"{SCHEMA}/{key}/{name}".encode()


def _secret(path: Path) -> bytes:
    """The secret in a file, which is made if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
        with suppress(FileExistsError):
            os.link(draft, path)  # of several processes the first one's; nobody reads half of it
        draft.unlink()
    data = path.read_bytes()
    if len(data) != _SECRET_BYTES:
        raise StoreError(f"{path} is no secret of {_SECRET_BYTES} bytes; what was sealed with another is lost")
    return data


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise store_error(error, "used", str(path)) from None
