from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from flock_ray.commands.settings import ChatSettings, EvaluateSettings, ExportSettings, read_settings, words_of
from flock_ray.errors import ConfigError


def test_words_become_settings() -> None:
    read = read_settings(ChatSettings, ["run=out/latest", "temperature=0.7", "max_new_tokens=12", "system=a=b c"])
    assert (read.run, read.temperature, read.max_new_tokens, read.system) == (Path("out/latest"), 0.7, 12, "a=b c")
    assert (read.top_p, read.seed) == (1.0, 0)
    assert read_settings(EvaluateSettings, ["run=x", "data=y", "average=row"]).average == "row"


@pytest.mark.parametrize(
    ("schema", "words", "told"),
    [
        (ChatSettings, [], "run=… is missing: folder of the finished run"),
        (
            ChatSettings,
            ["run=x", "temprature=1"],
            "unknown setting 'temprature=1'; did you mean temperature=…; there are",
        ),
        (ChatSettings, ["outputs/latest"], "unknown setting 'outputs/latest'; there are run=…, max_new_tokens=…"),
        (ChatSettings, ["run=x", "seed=one"], "seed is 'one'; it must be a number"),
        (ChatSettings, ["run=x", "max_new_tokens=0"], "max_new_tokens is 0; it must be 1 or more"),
        (ChatSettings, ["run=x", "temperature=nan"], "temperature is nan; it must be 0 or more"),
        (ChatSettings, ["run=x", "temperature=inf"], "temperature is inf; it must be 0 or more"),
        (ChatSettings, ["run=x", "top_p=1.5"], "top_p is 1.5; it must be between 0.01 and 1"),
        (EvaluateSettings, ["run=x", "data=y", "average=mean"], "average is 'mean'; it must be token or row"),
        (ExportSettings, ["run=x", "to=gguf"], "to is 'gguf'; it must be merged or hub"),
        (ExportSettings, ["run=x"], "to=… is missing"),
    ],
)
def test_words_that_are_refused(schema: type[object], words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(schema, words)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("schema", [ChatSettings, EvaluateSettings, ExportSettings])
def test_help_names_every_setting(schema: type[object]) -> None:
    told = words_of(schema)
    assert all(f"{one.name}=" in told for one in fields(schema))  # type: ignore[arg-type]
