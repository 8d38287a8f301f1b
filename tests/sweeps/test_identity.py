from __future__ import annotations

import shutil
import subprocess
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from flock_ray.config import ArenaConfig, Config, valid_keys
from flock_ray.sweeps.identity import NOT_NAMED, code_version, point_id


def changed(config: Any, key: str) -> Any:
    """The configuration with another value of one key."""
    names = key.split(".")
    owners = [reduce(getattr, names[:depth], config) for depth in range(len(names))]
    value: Any = other(getattr(owners[-1], names[-1]))
    for owner, field in zip(reversed(owners), reversed(names), strict=True):
        value = replace(owner, **{field: value})
    return value


def other(value: Any) -> Any:
    if isinstance(value, Enum):
        return next(one for one in type(value) if one is not value)
    if isinstance(value, bool):
        return not value
    if value is None or isinstance(value, list | dict):
        return [7]
    return value + ("x" if isinstance(value, str) else 1)


@pytest.mark.parametrize(("job", "config"), [("alliance", Config()), ("arena", ArenaConfig())])
def test_every_setting_that_results_may_depend_on_is_in_the_name(job: str, config: Any) -> None:
    named = point_id(job, config, "commit 1")
    assert len(named) == 64 and named == point_id(job, replace(config), "commit 1")
    assert all(not is_dataclass(getattr(config, field.name)) for field in fields(config) if field.name in NOT_NAMED)
    ids = {named}
    for key in valid_keys(type(config)):
        found = point_id(job, changed(config, key), "commit 1")
        assert (found == named) == (key in NOT_NAMED), key
        assert key in NOT_NAMED or found not in ids, key
        ids.add(found)
    assert point_id(job, config, "commit 2") not in ids and point_id("other", config, "commit 1") not in ids


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a folder with `conf/` beside it."""
    made = tmp_path / "checkout" / "flock_ray"
    for name, content in (("flock_ray/a.py", "a"), ("conf/b.yaml", "b"), ("docs/c.md", "c"), (".gitignore", "*.pyc")):
        path = made.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return made


def commit(package: Path) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")
    for words in (("init",), ("add", "."), ("commit", "--allow-empty", "-m", "x")):
        subprocess.run(["git", *who, *words], cwd=package.parent, check=True, capture_output=True)


def test_a_clean_checkout_is_named_by_the_last_commit_that_changed_the_code(package: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not found")
    outside = code_version(package)
    assert outside.startswith("flock-ray ") and ", sources " in outside
    commit(package)
    first = code_version(package)
    assert first.startswith("commit ") and len(first) == len("commit ") + 40
    (package.parent / "docs" / "c.md").write_text("other words")
    (package / "a.pyc").write_text("ignored")
    assert code_version(package) == first
    commit(package)
    assert code_version(package) == first
    (package / "a.py").write_text("other code")
    dirty = code_version(package)
    assert ", sources " in dirty and dirty != outside
    commit(package)
    assert code_version(package).startswith("commit ") and code_version(package) != first
    (package.parent / "conf" / "new.yaml").write_text("not added yet")
    assert ", sources " in code_version(package)


def test_a_wheel_and_a_checkout_of_the_same_files_have_one_name(package: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages" / "flock_ray"
    shutil.copytree(package, installed)
    shutil.copytree(package.parent / "conf", installed / "conf")
    (installed.parent / "conf").mkdir()
    (installed.parent / "conf" / "of-somebody-else.yaml").write_text("x")
    (installed / "__pycache__").mkdir()
    (installed / "__pycache__" / "a.pyc").write_text("x")
    named = code_version(package)
    assert code_version(installed) == named
    (installed / "a.py").rename(installed / "z.py")
    assert code_version(installed) != named
