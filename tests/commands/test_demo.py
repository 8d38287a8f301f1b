from __future__ import annotations

from math import inf

import pytest

from flock_ray.commands import demo

pytestmark = pytest.mark.model  # it imports transformers


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that `flock-ray alliance` gets."""
    lines: list[list[str]] = []
    monkeypatch.setattr(demo, "run_alliance", lambda overrides: lines.append(list(overrides)) or 7)
    return lines


@pytest.mark.parametrize(("fast", "name"), [(0.0, "default"), (inf, "small")])
def test_the_machine_decides_and_the_line_says_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], played: list[list[str]], fast: float, name: str
) -> None:
    monkeypatch.setattr(demo, "FAST", fast)
    assert demo.run(["seed=3", "model.dtype=float32"]) == 7
    assert played == [[f"experiment={name}", "seed=3", "model.dtype=float32"]]
    assert f"TFLOP/s in float32: experiment={name}" in capsys.readouterr().out


@pytest.mark.parametrize("override", ["experiment=tiny", "resume=run", "--help"])
def test_a_choice_on_the_command_line_stands(
    capsys: pytest.CaptureFixture[str], played: list[list[str]], override: str
) -> None:
    demo.run(["seed=3", override])
    assert played == [["seed=3", override]] and not capsys.readouterr().out


def test_the_rate_is_told_with_the_type_of_the_weights() -> None:
    name, rate = demo.products_per_second([])
    assert name in ("bfloat16", "float32") and rate > 0
