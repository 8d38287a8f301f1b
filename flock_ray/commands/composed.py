"""Commands whose command line is a configuration: Hydra composes it of `conf/` and the overrides."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

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
    play: Callable[[DictConfig, Collection[str]], None],
    interrupted: str = "interrupted",
) -> int:
    """Compose a configuration and play it; returns the exit code.

    With Hydra's `--multirun` there are several, until one fails; with `--help` and the like there is none.

    Args:
        command: as the user calls it.
        config_name: of the file in `conf/`.
        overrides: the command line, with Hydra's own options.
        schema: of the configuration; it has a key `traceback`.
        play: gets a configuration, and the keys and groups that the command line overrides.
        interrupted: see `exit_code_of`.

    Raises:
        ConfigError: a bad key, value or option.
    """
    for composed, named in _compose(command, config_name, overrides, schema):
        code = exit_code_of(partial(play, composed, named), interrupted, composed.traceback)
        if code:
            return code
    return 0


def _compose(
    command: str, config_name: str, overrides: Sequence[str], schema: type[Any]
) -> list[tuple[DictConfig, set[str]]]:
    composed: list[tuple[DictConfig, set[str]]] = []

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=config_name)
    def keep(config: DictConfig) -> None:
        named = {override.lstrip("+~").partition("=")[0] for override in HydraConfig.get().overrides.task}
        composed.append((config, named))

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv = [command, *overrides]  # Hydra reads its command line there and nowhere else
    try:
        keep()
    except Exception as error:
        raise ConfigError(explain_bad_key(error, schema)) from None
    return composed
