from __future__ import annotations

import pytest

from flock_ray.training.formats import FORMATS
from tests.training import documented

pytestmark = pytest.mark.model


@pytest.mark.usefixtures("smollm2")
def test_the_page_shows_what_is_learned_of_every_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m tests.training.documented` writes it anew."""
    from tests.training.conftest import USER_CACHE

    monkeypatch.setenv("FLOCK_RAY_CACHE", USER_CACHE)
    assert documented.PAGE.read_text(encoding="utf-8") == documented.page()


def test_the_table_has_every_format() -> None:
    assert {one.name for one in FORMATS} <= {documented.format_name(row) for _, row in documented.ROWS}
