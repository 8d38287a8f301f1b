"""Virtual environments of the peers, made from the package index: what they pin must not touch ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import step

PEERS = Path(__file__).resolve().parent
MADE = PEERS.parent.parent / "outputs" / "peers"


def python_of(name: str, without: Sequence[str] = ()) -> Path:
    """The interpreter of `outputs/peers/NAME`, made from `benchmarks/peers/NAME.txt` at first and when that changes.

    Packages in `without` are removed again: of which the index has only builds for another torch, say.
    Exits in one line when a package cannot be installed.
    """
    requirements, folder = PEERS / f"{name}.txt", MADE / name
    torch = _torch(requirements)
    python, stamp = folder / "bin" / "python", folder / ".ready"
    wanted = f"{torch}\n{requirements.read_text()}"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    pip = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    with step(f"making {folder} from {requirements.name}"):
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], f"cannot make {folder}")
        if torch:  # by itself: an install that resolves it together with the rest may take another build of it
            _run([*pip, *torch.split()], f"cannot install {torch} for {name}")
        _run([*pip, "-r", str(requirements)], f"cannot install {requirements.name}")
        if without:
            _run([*pip[:-1], "uninstall", "-y", *without], f"cannot remove {', '.join(without)}")
    stamp.write_text(wanted)  # last, so that an interrupted install starts again
    return python


def _torch(requirements: Path) -> str:
    """The build of torch that our own environment was made with, else what the file pins; empty if it needs none."""
    ours = Path(sys.prefix) / ".torch"
    pinned = next((line for line in requirements.read_text().splitlines() if line.startswith("torch==")), "")
    if not pinned:
        return ""
    chosen = ours.read_text().strip() if ours.exists() else pinned
    return chosen if chosen.split()[0] == pinned else pinned


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise SystemExit(f"error: {failure}: {' '.join(last)}")
