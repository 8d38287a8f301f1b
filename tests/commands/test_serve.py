"""What `flock-ray serve` refuses before it starts anything: one line, and the exit code of its cause."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from flock_ray.commands.main import main
from flock_ray.market.registry import Registry
from tests.market.entries import entry
from tests.market.gateways import adapter_bytes
from tests.runs import free_ports

pytestmark = pytest.mark.model

Refused = Callable[..., tuple[int, str]]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command; its exit code and its line."""

    def run(*overrides: str) -> tuple[int, str]:
        [port] = free_ports(1)
        code = main(["serve", f"folder={tmp_path / 'market'}", f"port={port}", *overrides])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        [line] = captured.err.splitlines()
        assert line.startswith("error: ")
        return code, line

    return run


def test_no_runs_and_an_empty_registry(refused: Refused, tiny_model_dir: Path) -> None:
    code, line = refused("model=folder", f"model.path={tiny_model_dir}", "engine.context_length=512")
    assert code == 73 and "serves no model" in line and "runs=[RUN_DIR]" in line


def test_a_port_that_is_taken(refused: Refused) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = refused(f"port={port}")
    assert code == 79 and f"port {port} of 127.0.0.1 cannot be used" in line


def test_a_base_model_that_is_missing(refused: Refused, tmp_path: Path) -> None:
    code, line = refused("model=folder", f"model.path={tmp_path}")
    assert code == 21 and "config.json is missing" in line


def test_another_base_model(refused: Refused, tiny_model_dir: Path, tmp_path: Path) -> None:
    data = adapter_bytes(1)
    registry = Registry.create(tmp_path / "market" / "registry")
    model = registry.publish(entry(data), data)
    code, line = refused("model=folder", f"model.path={tiny_model_dir}", "engine.context_length=512")
    assert code == 73 and f"the base model of {model.id} is 0x" in line


def test_a_context_that_the_base_model_has_not(refused: Refused, tiny_model_dir: Path) -> None:
    code, line = refused("model=folder", f"model.path={tiny_model_dir}", "engine.context_length=513")
    assert code == 10 and "engine.context_length is 513" in line and "at most 512 tokens" in line


def test_a_folder_that_is_no_run(refused: Refused, tmp_path: Path) -> None:
    code, line = refused("engine=echo", f"runs=[{tmp_path}]")
    assert code == 61 and f"{tmp_path} holds no run" in line
    (tmp_path / "run" / "store").mkdir(parents=True)
    (tmp_path / "run" / "task.json").write_text(json.dumps({"task": 7}))
    code, line = refused("engine=echo", f"runs=[{tmp_path / 'run'}]")
    assert code == 61 and "names no task" in line


def test_a_folder_that_cannot_be_written(refused: Refused) -> None:
    code, line = refused("engine=echo", "folder=/proc/nothing")
    assert code == 79 and "/proc/nothing cannot be used" in line


def test_a_ledger_that_is_none(refused: Refused, tmp_path: Path) -> None:
    data = adapter_bytes(1)
    Registry.create(tmp_path / "market" / "registry").publish(entry(data), data)
    code, line = refused("engine=echo", "ledger=mysql://somewhere")
    assert code == 75 and "ledger" in line


def test_more_engines_than_there_are_cores(refused: Refused) -> None:
    code, line = refused("engine=echo", "cluster.nodes=1000")
    assert code == 30 and "1000 engines of 1 CPU each do not fit" in line


def test_models_that_were_trained_on_different_dates(refused: Refused, tmp_path: Path) -> None:

    registry = Registry.create(tmp_path / "market" / "registry")
    for number in range(2):
        data = adapter_bytes(number)
        registry.publish(entry(data, name=f"m-{number}", template_date=date(2025, 1, 1 + number)), data)
    code, line = refused("engine=echo")
    assert code == 73 and "2025-01-01, 2025-01-02" in line


def test_money_without_a_chain_that_answers(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = adapter_bytes(1)
    Registry.create(tmp_path / "market" / "registry").publish(entry(data), data)
    [port] = free_ports(1)
    chain = ["money=chain", f"money.rpc=http://127.0.0.1:{port}", f"money.contract=0x{'ab' * 20}"]
    code, line = refused("engine=echo", *chain)
    assert code == 43 and "FLOCK_RAY_GATEWAY_KEY" in line
    monkeypatch.setenv("FLOCK_RAY_GATEWAY_KEY", "11" * 32)
    monkeypatch.setenv("FLOCK_RAY_RECEIPTS_KEY", "12" * 32)
    code, line = refused("engine=echo", *chain)
    assert code == 41
    code, line = refused("engine=echo", *chain, "money.contract=0x12")
    assert code == 10 and "no address" in line
