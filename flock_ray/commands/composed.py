"""Commands whose command line is a configuration: Hydra composes it of `conf/` and the overrides."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import flock_ray
from flock_ray.commands.outcome import exit_code_of
from flock_ray.config import explain_bad_key
from flock_ray.errors import ConfigError


def conf_folder() -> Path:
    """The folder `conf/`: inside the package where it was installed from a wheel, beside it in a checkout."""
    package = Path(str(flock_ray.__file__)).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def play_each(
    command: str,
    config_name: str,
    overrides: Sequence[str],
    schema: type[Any],
    play: Callable[[DictConfig, Mapping[str, bool]], None],
    interrupted: str = "interrupted",
) -> int:
    """Compose a configuration and play it; returns the exit code.

    With Hydra's `--multirun` there are several, until one fails; with `--help` and the like there is none.

    Args:
        command: as the user calls it.
        config_name: of the file in `conf/`.
        overrides: the command line, with Hydra's own options.
        schema: of the configuration; it has a key `traceback`.
        play: gets a configuration, and {key that the command line sets: whether by itself, not by a
            group's option}.
        interrupted: see `exit_code_of`.

    Raises:
        ConfigError: a bad key, value or option.
    """
    for composed, task in _compose(command, config_name, overrides, schema):
        try:
            show_traceback = composed.traceback
        except OmegaConfBaseException as error:
            raise ConfigError(explain_bad_key(error, schema)) from None
        code = exit_code_of(partial(play, composed, _named(task)), interrupted, show_traceback)
        if code:
            return code
    return 0


def _compose(
    command: str, config_name: str, overrides: Sequence[str], schema: type[Any]
) -> list[tuple[DictConfig, list[str]]]:
    """Each configuration, and the overrides that it was composed with."""
    composed: list[tuple[DictConfig, list[str]]] = []

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=config_name)
    def keep(config: DictConfig) -> None:
        task = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
        composed.append((config, cast(list[str], task)))

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with tempfile.TemporaryDirectory(prefix="flock-ray-") as scratch:
        if {"-m", "--multirun"}.intersection(overrides):  # Hydra's own notes; our runs go where `output_dir` says
            overrides = with_override(overrides, f"hydra.sweep.dir={scratch}")
        sys.argv = [command, *overrides]  # Hydra reads its command line there and nowhere else
        try:
            keep()
        except Exception as error:
            raise ConfigError(explain_bad_key(error, schema)) from None
    return composed


def with_override(words: Sequence[str], override: str) -> list[str]:
    """A command line with one override more, beside those that it has: Hydra takes them in one piece only."""
    first = next((index for index, word in enumerate(words) if "=" in word and word[0] != "-"), len(words))
    return [*words[:first], override, *words[first:]]


def _named(overrides: Sequence[str]) -> dict[str, bool]:
    """{key that these overrides set: whether by itself, and not as part of a group's option}."""
    named: dict[str, bool] = {}
    for override in overrides:
        name, _, value = override.lstrip("+~").partition("=")
        if (conf_folder() / name / f"{value}.yaml").is_file():
            named = dict.fromkeys(_keys_of(name, value), False) | named
        else:
            named[name] = True
    return named


def _keys_of(group: str, option: str) -> Iterator[str]:
    """Dotted keys that an option of a group sets: in its group, or anywhere if its file says `@package _global_`."""
    file = conf_folder() / group / f"{option}.yaml"
    content = OmegaConf.to_container(OmegaConf.load(file)) or {}
    assert isinstance(content, dict)
    for overridden in content.pop("defaults", ()):
        [(name, other)] = overridden.items()
        yield from _keys_of(name.rpartition("/")[2], other)
    everywhere = "@package _global_" in file.read_text().partition("\n")[0]
    yield from _leaves(content, "" if everywhere else f"{group}.")


def _leaves(values: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    """Dotted names of all values, those inside of mappings by the names of these too."""
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
