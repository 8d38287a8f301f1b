"""`flock-ray compare`: several finished runs side by side."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from pathlib import Path

import yaml

from flock_ray.commands.output import Output
from flock_ray.errors import ConfigError, RunDirectoryError
from flock_ray.store.files import read_json
from flock_ray.telemetry.comparison import (
    ComparedRun,
    differing_settings,
    figures,
    shown,
    write_comparison,
)


def read_runs(paths: list[Path]) -> list[ComparedRun]:
    """The runs in these folders, each under a label of its own.

    Raises:
        RunDirectoryError: one holds no finished run, or that of a contest.
    """
    folders = [path.expanduser().resolve() for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        if not (folder / "summary.json").is_file():
            raise RunDirectoryError(f"{path} holds no finished run: summary.json is missing")
        if read_json(folder / "summary.json").get("kind") == "contest":
            raise RunDirectoryError(
                f"{path} holds the run of a contest, and compare takes those of alliances; what a contest found is"
                f" in its leaderboard.html and leaderboard.json"
            )
    names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    seen = Counter(names)
    labels = [name if seen[name] == 1 else f"{name} #{place}" for place, name in enumerate(names, start=1)]
    return [
        ComparedRun(label, str(folder), read_json(folder / "summary.json"), _settings(folder / "config.yaml"))
        for label, folder in zip(labels, folders, strict=True)
    ]


def _settings(path: Path) -> dict[str, object]:
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RunDirectoryError(f"{path} does not read: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{path} holds no configuration")
    return value


def compare(asked: Namespace) -> None:
    """Print figures and settings that differ, and write the page."""
    if len(asked.runs) < 2:
        raise ConfigError("compare needs two runs or more")
    runs = read_runs(asked.runs)
    try:
        found = [{"run": run.label, **figures(run)} for run in runs]
        differing = differing_settings(runs)
        write_comparison(asked.to, runs)
    except (KeyError, TypeError, IndexError) as error:
        raise RunDirectoryError(
            f"a summary.json is not what this version writes ({type(error).__name__}: {error})"
        ) from None
    output = Output(asked.json)
    if asked.json:
        settings = [{"setting": name, "values": values} for name, values in differing]
        output.facts({"page": str(asked.to), "runs": found, "settings": settings})
        return
    columns = [shown(figures(run)) for run in runs]
    labels = [run.label for run in runs]
    rows = [{"figure": name, **{label: one[name] for label, one in zip(labels, columns, strict=True)}}
            for name in columns[0]]  # fmt: skip
    named = [{"setting": name, **dict(zip(labels, values, strict=True))} for name, values in differing]
    output.facts({"figures": rows, "settings_that_differ": named})
    output.note(f"Page: {asked.to}", {})
