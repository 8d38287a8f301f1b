"""What a point is called: a hash of all that its results should depend on, its configuration and the code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import flock_ray
from flock_ray.config import ArenaConfig, Config
from flock_ray.store.files import plain

NOT_NAMED = ("output_dir", "resume", "plan_only", "traceback")
"""Settings that say where a run is and what is shown of it."""

_CODE = ("flock_ray", "conf")
"""The folders of a checkout that a run's results depend on."""
_PACKAGE = Path(str(flock_ray.__file__)).resolve().parent


def point_id(job: str, config: Config | ArenaConfig, code: str) -> str:
    """SHA-256 of a point, 64 hex digits.

    Args:
        job: `alliance` or `arena`.
        config: resolved. What `NOT_NAMED` names is left out.
        code: see `code_version`.
    """
    settings = {name: value for name, value in plain(asdict(config)).items() if name not in NOT_NAMED}
    text = json.dumps({"job": job, "code": code, "config": settings}, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def code_version(package: Path = _PACKAGE) -> str:
    """The version of the code in a package's folder.

    Returns:
        `commit <hash>` in a git checkout without changes: the last commit that changed the package or `conf/`, so that
        others, of documents say, make no new points. Else `flock-ray <version>, sources <hash>`: SHA-256 of names and
        bytes of the package's files, and those of `conf/`.
    """
    return _clean_commit(package) or f"flock-ray {_version()}, sources {_sources(package)}"


def _clean_commit(package: Path) -> str:
    """The commit; empty where there is no git, no checkout, or a change that is not committed."""
    folders = [name for name in _CODE if (package.parent / name).is_dir()]

    def git(*words: str) -> str | None:
        command = ["git", "--no-optional-locks", "-C", str(package.parent), *words, "--", *folders]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return ended.stdout.strip() if ended.returncode == 0 else None

    if git("status", "--porcelain") != "":
        return ""
    commit = git("log", "-1", "--format=%H")
    return f"commit {commit}" if commit else ""


def _version() -> str:
    try:
        return version("flock-ray")
    except PackageNotFoundError:
        return "unknown"


def _sources(package: Path) -> str:
    digest = sha256()
    for name, path in sorted(_files(package)):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files(package: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths; a wheel has `conf/` inside the package, a checkout beside it, and both give the same names."""
    beside = [] if (package / "conf").is_dir() else [(package.parent / "conf", "conf/")]
    for folder, prefix in ((package, ""), *beside):
        for path in folder.rglob("*"):
            name = path.relative_to(folder)
            if path.is_file() and "__pycache__" not in name.parts:
                yield f"{prefix}{name.as_posix()}", path
