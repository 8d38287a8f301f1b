"""`flock-ray` and its sub-commands, before any of them runs."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flock_ray.commands import main as command
from flock_ray.commands.parser import COMPOSED, build_parser
from flock_ray.errors import ChainError
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = {"torch", "transformers", "peft", "ray", "web3", "eth_account", "eth_abi", "hydra"}


def parsers(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command with its words, groups of commands included."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers(inner, *words, name)


COMMANDS = dict(parsers(build_parser()))
ACTS = {words: act for words, parser in COMMANDS.items() if (act := parser.get_default("act"))}


def flock_ray(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flock_ray", *arguments],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.parametrize("words", ["", "verify", "stake", "delegation add", "task accuse"])
def test_help_imports_nothing_slow(tmp_path: Path, words: str) -> None:
    ended = flock_ray(*words.split(), "--help", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert ended.returncode == 0 and ended.stdout.startswith("usage: flock-ray ")
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "flock_ray.commands.parser" in imported
    assert not imported & SLOW_TO_IMPORT


@pytest.mark.chain  # their modules import an EVM
def test_every_command_has_a_function_and_a_line_of_help() -> None:
    assert COMPOSED.keys() <= COMMANDS.keys()
    for act in [*ACTS.values(), *COMPOSED.values()]:
        assert callable(command.function_of(act))
    for words, parser in COMMANDS.items():
        assert words in ACTS or words in COMPOSED or any(words == other[:-1] for other in COMMANDS)
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), (words, action.dest)


def test_the_documentation_has_a_line_for_every_command() -> None:
    lines = re.findall(r"^\| `flock-ray ([a-z -]+)` \| .+ \|$", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    assert sorted(lines) == sorted(" ".join(words) for words in [*ACTS, *COMPOSED])


def test_the_end_of_a_command_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(how: BaseException | None) -> tuple[int, str]:
        def act(asked: object) -> None:
            if how:
                raise how

        monkeypatch.setattr(command, "function_of", lambda name: act)
        return command.main(["verify", "/nowhere"]), capsys.readouterr().err

    assert ends(None) == (0, "")
    assert ends(ChainError("it is\nbroken")) == (ChainError.exit_code, "error: it is broken\n")
    assert ends(KeyboardInterrupt()) == (130, "error: interrupted\n")
    code, told = ends(ZeroDivisionError("by zero"))
    assert code == 1 and told.startswith("Traceback")
    assert told.splitlines()[-1] == "error: unexpected ZeroDivisionError: by zero"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["task"], ["verify"], ["verify", ".", "--anchor", "0x12"]])
def test_a_wrong_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: flock-ray")


def test_an_installed_wheel_brings_its_configuration_along(tmp_path: Path) -> None:
    sources, wheels, installed, empty = (tmp_path / name for name in ("sources", "wheels", "installed", "empty"))
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("flock_ray", "conf"):
        shutil.copytree(ROOT / folder, sources / folder, ignore=ignored)
    for file in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(ROOT / file, sources / file)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, sources], check=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", installed, wheel], check=True)
    shipped = {str(path.relative_to(installed / "flock_ray")) for path in (installed / "flock_ray").rglob("*")}
    here = [path.relative_to(ROOT) for folder in ("flock_ray", "conf") for path in (ROOT / folder).rglob("*")]
    kept = [path for path in here if (ROOT / path).is_file() and "__pycache__" not in path.parts]
    assert {str(path).removeprefix("flock_ray/") for path in kept} <= shipped
    empty.mkdir()
    script = str(installed / "bin" / "flock-ray")
    for arguments, told in (
        (["alliance", "--cfg", "job"], "alliance:"),
        (["deployment", "deploy", "--cfg", "job"], "book:"),
    ):
        ended = subprocess.run(
            [sys.executable, script, *arguments],
            cwd=empty, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert told in ended.stdout and ended.stderr == ""
