from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.market import Market, environment


@pytest.fixture
def market(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Market]:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    made = Market(tmp_path, capsys)
    yield made
    made.close()
