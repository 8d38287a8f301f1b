"""`pip install .` in an environment of its own, which has the dependencies and nothing of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

pytestmark = [pytest.mark.ray, pytest.mark.chain, pytest.mark.model]

ROOT = Path(__file__).parents[2]
SOURCES = ("flock_ray", "conf", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin/flock-ray` of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    wheels = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*pip, *wheels], check=True)
    home = folder / "environment"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    shown = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], check=True, capture_output=True, text=True
    )
    packages = Path(shown.stdout.strip())
    paths = [Path(path) for path in sys.path if path.endswith("site-packages")]
    # Of a folder that a .pth file names, .pth files are not read: the editable checkout stays out.
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", *map(str, folder.glob("*.whl"))],
        check=True,
    )
    return home / "bin" / "flock-ray"


def test_a_wheel_trains_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    ended = subprocess.run(
        [str(installed), "alliance", "experiment=tiny"],
        cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "outputs/latest/summary.json").is_file()
    where = subprocess.run(
        [str(installed.parent / "python"), "-c", "import flock_ray; print(flock_ray.__file__)"],
        cwd=tmp_path, env=kept, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert str(installed.parents[1]) in where.stdout
