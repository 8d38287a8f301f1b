from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.telemetry import text


@pytest.mark.parametrize(
    ("wei", "shown"),
    [
        (0, "0.00"),
        (10**18, "1.00"),
        (10**18 - 1, "0.99"),
        (-1, "-0.00"),
        (1_234 * 10**18, "1,234.00"),
        (-(10**17), "-0.10"),
    ],
)
def test_amounts_are_cut_never_rounded_up(wei: int, shown: str) -> None:
    assert text.tokens(wei) == shown


@given(st.integers(min_value=-(10**30), max_value=10**30))
def test_an_amount_shows_its_sign_and_no_more_than_there_is(wei: int) -> None:
    shown = text.tokens(wei, signed=True)
    assert shown.startswith("-") == (wei < 0)
    assert shown.startswith("+") == (wei > 0)
    cents = int(shown.lstrip("+-").replace(",", "").replace(".", ""))
    assert cents * 10**16 <= abs(wei) < (cents + 1) * 10**16


def test_numbers_as_a_person_reads_them() -> None:
    assert (text.loss(2.34567), text.loss(None), text.score(41_249), text.score(None)) == (
        "2.3457",
        "-",
        "+0.0412",
        "-",
    )
    assert (text.percent(2.0, 1.9), text.percent(None, 1.0), text.percent(1.0, None)) == ("-5.00%", "", "")
    assert [text.seconds(value) for value in (0.44, 83.2, 725.0)] == ["0.4 s", "83 s", "12 min 5 s"]
    assert text.short("0x" + "ab" * 20) == "0xababab..abab"


def test_what_a_mechanism_did_as_a_person_reads_it() -> None:
    token = 10**18
    rows = ((2, 3 * token, 0), (5, 0, token // 2), (7, token, token))
    assert text.fees(rows) == "fees: member 2 3.00, member 7 1.00; withheld for fees: member 5 0.50, member 7 1.00"
    assert text.fees(rows[:1]) == "fees: member 2 3.00" and text.fees(()) == ""
    assert text.voiceless((3, 5)) == "voters without a voice: 3, 5" and text.voiceless(()) == ""
    assert [text.at_step(step) for step in (None, 1, 5)] == ["", "", " at step 5"]


def test_a_name_cannot_drive_the_terminal() -> None:
    assert text.printable("a\x1b[2Jb\r\n") == "a?[2Jb??"


def test_settings_as_a_command_line_has_them() -> None:
    values = {"a": 1, "b": [3, "x"], "c": {3: "flip", 4: None}, "d": True, "e": 0.001}
    assert text.settings(values) == "a=1 b=[3,x] c={3:flip,4:null} d=true e=0.001"
    assert text.settings({}) == ""
