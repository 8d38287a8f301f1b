"""Every behaviour has an option, and a row in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flock_ray.adversary.behaviour import Behaviour
from flock_ray.adversary.registry import BEHAVIOURS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "robustness-attacks.md").read_text()
IN_ROWS = {name for row in re.findall(r"^\| (`[^|]*) \|", PAGE, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def test_the_page_has_a_row_of_every_behaviour_and_of_no_other() -> None:
    assert set(BEHAVIOURS) - {"none"} == IN_ROWS


@pytest.mark.parametrize("name", sorted(set(BEHAVIOURS) - {"nan", "wrong_shape", "wrong_dtype"}))
def test_every_behaviour_has_an_option(name: str) -> None:
    """Malformed updates are one member's mischief: they have a test each, and no option."""
    assert f"{name}" in (ROOT / "conf" / "adversary" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", sorted(set(BEHAVIOURS) - {"none", "nan", "wrong_shape", "wrong_dtype"}))
def test_a_docstring_names_what_it_is_after(name: str) -> None:
    """Its own, or that of the behaviour it is a variant of."""
    texts = [kind.__doc__ or "" for kind in BEHAVIOURS[name].__mro__ if kind.__module__ != Behaviour.__module__]
    assert re.search(r"\b20\d\d\b", " ".join(texts[:-1]))
