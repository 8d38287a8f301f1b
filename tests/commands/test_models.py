"""Commands on a registry, as people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flock_ray.commands.main import main
from flock_ray.errors import RegistryError, UnknownModelError
from flock_ray.market.licences import Licences
from flock_ray.market.models import Price
from flock_ray.market.registry import Registry
from flock_ray.protocol.encoding import to_hex
from tests.market.entries import account, entry, lineage

pytestmark = pytest.mark.chain  # they import what prints amounts

OLD = entry(b"1", price=Price(2 * 10**12, 6 * 10**12))
NEW = entry(b"2", lineage=lineage(parent=OLD.adapter, epoch=3), licences=Licences("llama3.2", "mit", "mit"))
ADDRESS = "0x" + "00" * 19 + "09"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry.create(tmp_path / "registry")
    made.publish(OLD, b"1")
    made.publish(NEW, b"2", ["llama3.2"])
    made.set_alias("best", OLD)
    return made


@pytest.fixture
def told(registry: Registry, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def type_(*words: str, code: int = 0) -> str:
        ended = main([*words, "--registry", str(registry.folder)])
        output, errors = capsys.readouterr()
        assert ended == code, errors
        if code:
            assert output == "" and len(errors.splitlines()) == 1
            return errors.removeprefix("error: ").rstrip("\n")
        assert errors == ""
        return output

    return type_


def test_the_table_has_a_line_of_each_model(told: Callable[..., str]) -> None:
    table = told("models")
    old = next(line for line in table.splitlines() if OLD.id in line)
    for cell in ("best", "apache-2.0", "2 / 6 a million", "epoch 2", "served"):
        assert cell in old
    assert NEW.id in table and "llama3.2" in table


def test_programs_get_the_same(told: Callable[..., str]) -> None:
    models = json.loads(told("models", "--json"))["models"]
    assert [model["id"] for model in models] == [one.id for one in sorted((OLD, NEW), key=lambda one: one.adapter)]
    shown: dict[str, Any] = json.loads(told("models", "--json", "show", NEW.id))
    assert shown in models
    assert json.loads(told("models", "show", NEW.id, "--json")) == shown
    assert shown["licence"] == "llama3.2"
    assert [step["adapter"] for step in shown["lineage"]] == [to_hex(NEW.adapter), to_hex(OLD.adapter)]
    assert shown["lineage"][0]["parent"] == to_hex(OLD.adapter)
    assert [step["record"] for step in shown["lineage"]] == [to_hex(NEW.lineage.record), to_hex(OLD.lineage.record)]
    assert [member["earned_wei"] for member in shown["members"]] == [3, 2]


def test_one_model_is_shown_with_lineage_and_members(told: Callable[..., str]) -> None:
    text = told("models", "show", NEW.id)
    for part in (to_hex(NEW.adapter), "licence of the base", "host 20 %, protocol 8 %, owner 22 %, members 50 %"):
        assert part in text
    flat = "".join(text.split())
    for digest in (NEW.lineage.record, NEW.lineage.task, OLD.adapter):
        assert to_hex(digest) in flat, "whole hashes, wherever a line ends"


def test_an_alias_moves_and_a_retired_model_goes(told: Callable[..., str], registry: Registry) -> None:
    assert told("alias", "best", NEW.id) == f"best is {NEW.id} now, no longer {OLD.id}\n"
    assert told("retire", "best") == f"Retired {NEW.id}; its aliases went with it: best\n"
    assert registry.models() == (OLD,)
    assert NEW.id not in told("models") and NEW.id in told("models", "--all")
    assert '"state": "retired"' in told("models", "show", NEW.id, "--json")
    told("retire", OLD.id)
    assert "serves no model; flock-ray publish RUN adds one" in told("models")


def test_prices_change_and_the_rest_stays(told: Callable[..., str], registry: Registry) -> None:
    told("price", "best", "--price-output", "0.5", "--host", ADDRESS)
    sold = registry.resolve("best")
    assert (sold.price, sold.split, sold.host) == (Price(2 * 10**12, 5 * 10**11), OLD.split, account(9))
    assert "free" in told("price", "best", "--price-prompt", "0", "--price-output", "0", "--split", "50,0,0,50")
    assert registry.resolve("best").split.members == 5_000


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["retire", "poet"], UnknownModelError, "there is no model 'poet' here; there are best, coder@"),
        (["models", "show", "coder"], UnknownModelError, "2 models are named coder"),
        (["alias", "Best", OLD.id], RegistryError, "an alias has 1 to 63 of a-z"),
        (["alias", "base", OLD.id], RegistryError, "and is not 'base'"),
    ],
)
def test_mistakes_end_in_one_line(
    told: Callable[..., str], words: list[str], code: type[RegistryError], reason: str
) -> None:
    assert reason in told(*words, code=code.exit_code)


@pytest.mark.parametrize(
    "words",
    [
        ["--price-prompt", "-1"], ["--split", "50,50"], ["--split", "50,0,0,51"], ["--price-output", "0.0000000000001"],
        ["--price-output", "99999999999"],
    ],
)  # fmt: skip
def test_values_that_are_none_are_refused(registry: Registry, words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["price", "best", *words, "--registry", str(registry.folder)])
    assert left.value.code == 2


def test_a_folder_that_is_no_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--registry", str(tmp_path)]) == RegistryError.exit_code
    assert "is no registry: registry.json is missing; flock-ray publish makes one" in capsys.readouterr().err
