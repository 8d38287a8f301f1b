"""From tokens to text: characters are whole, stop strings are cut wherever tokens have their borders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.serving.detokenizer import UNFINISHED, Detokenizer, StopStrings


def decode(tokens: list[int]) -> str:
    """A token is a byte."""
    return bytes(tokens).decode(errors="replace")


def pieces(tokens: list[int]) -> list[str]:
    detokenizer = Detokenizer(decode)
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


@pytest.mark.parametrize("text", ["한국어로 답해 줘", "👩‍💻🇰🇷 ok", "naïve — ∑", "plain"])
def test_characters_come_whole(text: str) -> None:
    found = pieces(list(text.encode()))
    assert "".join(found) == text and not any(UNFINISHED in piece for piece in found)
    assert max(map(len, found)) == 1, "and as soon as their last byte is there"


@given(st.lists(st.integers(0, 255), max_size=40))
def test_the_pieces_of_any_bytes_are_their_text(tokens: list[int]) -> None:
    assert "".join(pieces(tokens)) == decode(tokens)


def test_bytes_that_are_no_text_do_not_pile_up() -> None:
    assert pieces([0xE2] * 5) == ["", *[UNFINISHED] * 5]


def test_a_tokenizer_that_writes_the_first_word_otherwise() -> None:
    words = ["▁one", "▁two", "▁three"]

    def joined(tokens: list[int]) -> str:
        return "".join(words[token] for token in tokens).replace("▁", " ").lstrip(" ")

    detokenizer = Detokenizer(joined)
    assert [detokenizer.push(token) for token in (0, 1, 2)] == ["one", " two", " three"]


def through(stops: list[str], parts: list[str]) -> tuple[list[str], bool]:
    gate = StopStrings(stops)
    found = []
    for part in parts:
        found.append(gate.push(part))
        if gate.stopped:
            return found, True
    return [*found, gate.flush()], False


def test_a_stop_string_across_tokens() -> None:
    assert through(["</end>"], ["a<", "/e", "nd", ">b"]) == (["a", "", "", ""], True)
    assert through(["</end>"], ["a<", "/e", "x"]) == (["a", "", "</ex", ""], False)
    assert through(["</end>"], ["a</", "en"]) == (["a", "", "</en"], False), "an answer that ends in the middle"
    assert through(["yz", "xyz"], ["wx", "yz"]) == (["w", ""], True), "the earliest one"


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_the_text_ends_where_the_first_stop_string_does_begin(parts: list[str], stops: list[str]) -> None:
    found, stopped = through(stops, parts)
    whole = ""
    for part in parts:  # as one sees it come
        whole += part
        if any(stop in whole for stop in stops):
            break
    places = [whole.find(stop) for stop in stops if stop in whole]
    assert stopped == bool(places)
    assert "".join(found) == (whole[: min(places)] if places else whole)
