"""What users say of answers: kept under seal, bounded, and made into a silo."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.errors import ConfigError, DataError, RateLimitedError, RequestError, StoreError
from flock_ray.market.feedback import Feedback, FeedbackStore, row_of
from flock_ray.market.feedback_export import COUNTS, HELDOUT, SILO, export
from flock_ray.protocol.hashing import sha256

DAY = 86_400
SECRET = "the launch code is 0000"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def said(number: int = 0, **changes: Any) -> Feedback:
    """Feedback on the answer of a request of this number: a correction, with consent."""
    feedback = Feedback(
        request=sha256(b"%d" % number),
        key="key-1",
        model=sha256(b"adapter"),
        created=10 * DAY + number,
        messages=(("system", "Be brief."), ("user", f"What comes after {number}?")),
        answer="I do not know.",
        rating=-1,
        correction=f"{number + 1}",
        consent=True,
        licence="cc0-1.0",
    )
    return replace(feedback, **changes)


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore(tmp_path / "feedback")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# The store


@st.composite
def feedback(draw: st.DrawFn) -> Feedback:
    middle = draw(st.lists(st.tuples(st.sampled_from(("system", "user", "assistant")), TEXTS), max_size=4))
    rating = draw(st.sampled_from((-1, 0, 1)))
    correction = draw(TEXTS.filter(str.strip)) if rating == 0 else draw(TEXTS)
    return said(
        draw(st.integers(0, 99)), messages=(*middle, ("user", draw(TEXTS))), answer=draw(TEXTS), rating=rating,
        correction=correction, consent=draw(st.booleans()), created=draw(st.integers(0, (1 << 40) - 1)),
    )  # fmt: skip


@given(feedback())
def test_feedback_is_read_back_as_it_was(one: Feedback) -> None:
    assert Feedback.from_bytes(one.to_bytes()) == one


def test_what_is_kept_is_read_by_all_who_have_the_secret(store: FeedbackStore) -> None:
    assert store.add(said(1)) and store.add(said(2, key="key-2"))
    assert {one.request for one in FeedbackStore(store.folder)} == {said(1).request, said(2).request}
    assert sorted(store, key=lambda one: one.created) == [said(1), said(2, key="key-2")]


def test_nothing_on_the_disk_tells_what_was_said_or_by_whom(store: FeedbackStore) -> None:
    store.add(said(1, answer=SECRET, key="key-of-ann"))
    files = [path for path in store.folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        for word in (SECRET, "key-of-ann", "What comes after"):
            assert word.encode() not in path.read_bytes() and word not in str(path)
    assert stat.S_IMODE((store.folder / "secret").stat().st_mode) == 0o600


def test_a_later_word_replaces_the_earlier_one_of_the_same_key(store: FeedbackStore) -> None:
    assert store.add(said(1))
    assert not store.add(said(1, consent=False, created=12 * DAY))
    assert [one.consent for one in store] == [False]
    assert store.add(said(1, key="key-2")), "another key's word stays apart"
    assert len(list(store)) == 2


def test_a_flood_is_bounded_by_key_and_day(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "feedback", per_day=3)
    for number in range(3):
        store.add(said(number))
    with pytest.raises(RateLimitedError, match="at most 3 rows of feedback a day") as refused:
        store.add(said(3))
    assert refused.value.retry_after == DAY - 3
    store.add(said(2, rating=1))  # no new row
    store.add(said(3, key="key-2"))
    store.add(said(3, created=11 * DAY))
    assert len(list(store)) == 5


def test_a_key_fills_no_disk(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flock_ray.market.feedback.PER_KEY", 2)
    for number in range(2):
        store.add(said(number, created=number * DAY))
    with pytest.raises(RateLimitedError, match="at most 2 rows of feedback in all") as refused:
        store.add(said(2, created=2 * DAY))
    assert refused.value.retry_after is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"request": b"1"}, "hashes of 32 bytes"), ({"model": "0x"}, "hashes of 32 bytes"),
        ({"key": ""}, "are texts"), ({"key": "a\nb"}, "are texts"), ({"answer": None}, "are texts"),
        ({"created": -1}, "Unix seconds"), ({"created": 1.5}, "Unix seconds"), ({"rating": 2}, "rating is -1, 0 or 1"),
        ({"rating": True}, "rating is -1, 0 or 1"), ({"consent": 1}, "consent true or false"),
        ({"rating": 0, "correction": " "}, "a rating, or a correction"), ({"licence": ""}, "no name of a licence"),
        ({"licence": "MIT"}, "no name of a licence"), ({"messages": ()}, "1 to 256 messages"),
        ({"messages": (("user", "x"),) * 257}, "1 to 256 messages"),
        ({"messages": (("tool", "x"),)}, "message 0 is no"), ({"messages": (("user", 1),)}, "message 0 is no"),
        ({"messages": ("user",)}, "message 0 is no"),
        ({"messages": (("user", "x"), ("assistant", "y"))}, "is the user's"),
        ({"correction": "x" * 40_000}, "bytes, more than"), ({"answer": "\ud800"}, "half a character"),
    ],
)  # fmt: skip
def test_what_is_no_feedback_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        said(1, **changes)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", said(1).to_bytes() + b" ", b'{"schema":"x"}'])
def test_bytes_of_no_feedback_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Feedback.from_bytes(data)


def test_damage_is_told_and_names_the_file(store: FeedbackStore, tmp_path: Path) -> None:
    store.add(said(1)), store.add(said(2))
    one, two = store.folder.glob("rows/*/*/*.sealed")
    kept = one.read_bytes()
    for damage in (b"", kept[:-1], kept[:-1] + bytes([kept[-1] ^ 1]), two.read_bytes()):
        one.write_bytes(damage)
        with pytest.raises(StoreError, match=rf"{one.name} is damaged, or sealed with another secret"):
            list(store)
    one.write_bytes(kept)
    assert len(list(store)) == 2
    other = FeedbackStore(store.folder, tmp_path / "other" / "secret")
    with pytest.raises(StoreError, match="sealed with another secret"):
        list(other)
    (store.folder / "secret").write_bytes(b"short")
    with pytest.raises(StoreError, match="no secret of 64 bytes"):
        FeedbackStore(store.folder)


def test_a_full_disk_is_told(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="no space left on device"):
        store.add(said(1))
    assert list(store) == []


# The silo


def test_a_silo_holds_what_may_be_trained_on_each_once(tmp_path: Path) -> None:
    rows = [
        *(said(number) for number in range(30)),
        said(40, messages=said(1).messages, correction=said(1).correction, key="key-2"),
        said(41, consent=False, correction=SECRET),
        said(42, correction=""),
        said(43, correction="", rating=1, answer="44"),
        said(44, licence="cc-by-nc-4.0"),
        said(45, licence="Ours"),
        said(46, model=sha256(b"other")),
    ]
    counts = export(rows, tmp_path / "silo", accept=["CC-BY-NC-4.0"], model=said().model)
    assert (counts.read, counts.no_consent, counts.no_lesson, counts.repeated) == (36, 1, 1, 1)
    assert counts.not_accepted == {"Ours": 1}
    assert counts.licences == {"cc0-1.0": 31, "cc-by-nc-4.0": 1}
    assert (counts.silo + counts.heldout, counts.corrections) == (32, 31)
    silo, heldout = lines(tmp_path / "silo" / SILO), lines(tmp_path / "silo" / HELDOUT)
    assert (len(silo), len(heldout)) == (counts.silo, counts.heldout)
    expected = [row_of(one) for one in (*rows[:30], rows[33], rows[34])]
    assert sorted(map(str, silo + heldout)) == sorted(map(str, expected))
    assert all(set(row) == {"messages"} for row in silo), "nothing of who said it"
    assert SECRET not in (tmp_path / "silo" / SILO).read_text()
    assert json.loads((tmp_path / "silo" / COUNTS).read_text())["no_consent"] == 1


@given(st.integers(0, 10_000), st.sets(st.integers(0, 200), min_size=1, max_size=30), st.randoms())
def test_what_is_held_out_stays_held_out(heldout_bp: int, numbers: set[int], order: Any) -> None:
    def parts(rows: list[Feedback]) -> tuple[set[str], set[str]]:
        with TemporaryDirectory() as name:
            folder = Path(name) / "silo"
            try:
                export(rows, folder, heldout_bp=heldout_bp)
            except DataError:
                return set(), {row_of(one)["messages"][1]["content"] for one in rows}  # type: ignore[call-overload,index]
            read = [{row["messages"][1]["content"] for row in lines(folder / part)} for part in (SILO, HELDOUT)]
            return read[0], read[1]

    rows = [said(number) for number in numbers]
    silo, heldout = parts(rows)
    assert not silo & heldout and len(silo | heldout) == len(rows)
    more = [*rows, *(said(number + 1_000) for number in numbers), *(said(n, correction="no", key="b") for n in numbers)]
    order.shuffle(more)
    silo_later, heldout_later = parts(more)
    assert silo <= silo_later and heldout <= heldout_later and not silo_later & heldout_later


def test_equal_feedback_gives_equal_files_in_any_order(tmp_path: Path) -> None:
    rows = [said(number) for number in range(20)]
    export(rows, tmp_path / "one")
    export(rows[::-1], tmp_path / "two")
    for name in (SILO, HELDOUT, COUNTS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_nothing_to_train_on_is_told_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of 2 rows 1 are without consent, 1 without an answer to learn, 0 under"):
        export([said(1, consent=False), said(2, correction="")], tmp_path / "silo")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "silo").mkdir()
    (tmp_path / "silo" / "mine").touch()
    with pytest.raises(ConfigError, match="not empty; name another folder"):
        export([said(1)], tmp_path / "silo")


def test_a_store_that_fails_halfway_leaves_no_silo(tmp_path: Path) -> None:
    def rows() -> Iterator[Feedback]:
        yield said(1)
        raise StoreError("a row is damaged")

    with pytest.raises(StoreError):
        export(rows(), tmp_path / "silo")
    assert list(tmp_path.iterdir()) == []
