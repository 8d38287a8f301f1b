"""`flock-ray feedback`: what users said of answers becomes a silo, and a task that goes on from the served adapter."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from flock_ray.cluster.run_directory import load_config
from flock_ray.commands.output import Output
from flock_ray.commands.trained import finished_run
from flock_ray.config import Config, DataConfig, check
from flock_ray.errors import ConfigError, DataError
from flock_ray.market.feedback import FeedbackStore
from flock_ray.market.feedback_export import HELDOUT, SILO
from flock_ray.market.feedback_export import export as export_feedback
from flock_ray.store.files import write_text
from flock_ray.training.files import SiloFiles, entry

_TOLD = """\
# The alliance after {run}: it starts from that run's adapter, with its silos, and with feedback as member {member}'s.
#   flock-ray alliance --config-dir {folder} --config-name {name}
"""
_HEAD = """\
defaults:
  - flock_ray_schema
  - override hydra/hydra_logging: disabled
  - override hydra/job_logging: disabled
  - _self_
hydra:
  run:
    dir: .
  output_subdir: null
"""


def export(asked: Namespace) -> None:
    """Write the silo and tell what became of the rows."""
    if not (asked.store / "rows").is_dir():
        raise DataError(f"{asked.store} holds no feedback: it is what a gateway's users say of answers")
    store = FeedbackStore(asked.store, asked.secret)
    model = bytes.fromhex(asked.model) if asked.model else None
    counts = export_feedback(store, asked.to, asked.accept, model, asked.heldout)
    output = Output(asked.json)
    if asked.json:
        files = {"silo_file": str(asked.to / SILO), "heldout_file": str(asked.to / HELDOUT)}
        output.facts({**counts.as_json(), **files})
        return
    told = {name: value for name, value in counts.as_json().items() if isinstance(value, int)}
    by_licence = [{"licence": name, "rows": rows, "taken": "yes"} for name, rows in sorted(counts.licences.items())]
    left = [{"licence": name, "rows": rows, "taken": "no"} for name, rows in sorted(counts.not_accepted.items())]
    output.facts({**told, "rows_by_licence": [*by_licence, *left]})
    output.note(f"Silo: {asked.to / SILO}; held out of all training: {asked.to / HELDOUT}", {})


def task(asked: Namespace) -> None:
    """Write the configuration of an alliance that goes on from a run, with the silo of feedback."""
    run = finished_run(asked.run_dir)
    config = next_config(load_config(run.path), run.path, asked.silo)
    check(config)
    target: Path = asked.to.expanduser().resolve()
    if target.suffix != ".yaml" or target.exists():
        raise ConfigError(f"{asked.to} must be a new file whose name ends in .yaml")
    member = config.alliance.num_members - 1
    head = _TOLD.format(run=run.path, member=member, folder=target.parent, name=target.stem)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, head + as_file(config))
    command = f"flock-ray alliance --config-dir {target.parent} --config-name {target.stem}"
    told = (
        f"Wrote {target}: {config.alliance.num_members} members, of which {member} is feedback; begin it with {command}"
    )
    Output(asked.json).note(told, {"config": str(target), "members": config.alliance.num_members, "command": command})


def as_file(config: Config) -> str:
    """A configuration as a file that `flock-ray alliance --config-dir DIR --config-name NAME` takes."""
    return _HEAD + OmegaConf.to_yaml(OmegaConf.structured(config))


def next_config(config: Config, run: Path, silo: Path) -> Config:
    """The configuration of an alliance that goes on from a run, with one silo more.

    The seed stays, so that what was held out of the old silos stays held out.

    Args:
        config: of the run.
        run: its folder.
        silo: file of rows; the last member's.

    Raises:
        ConfigError: the run has candidates, whose silos come after those of the members.
        DataError: a silo is not there.
    """
    if not silo.is_file():
        raise DataError(f"{silo} is no file of rows; flock-ray feedback export writes one")
    alliance = config.alliance
    if alliance.candidates:
        raise ConfigError(
            f"{run} has {alliance.candidates} candidates, whose silos follow those of its members: write data.path and"
            " alliance.num_members of the next task yourself, with start_from"
        )
    silos, kind = _silos(config.data, alliance.num_members)
    own = str(silo.resolve())
    silos[alliance.num_members] = own if kind == "jsonl" else f"jsonl:{own}"
    return replace(
        config,
        resume="",
        start_from=str(run.resolve()),
        data=replace(config.data, kind=kind, path=silos),
        alliance=replace(alliance, num_members=alliance.num_members + 1),
    )


def _silos(data: DataConfig, members: int) -> tuple[dict[int, str], str]:
    """({member: its silo}, kind of data) of a run, as an alliance of one more member names them."""
    if data.kind == "jsonl":
        files = SiloFiles(data.path)
        return {member: str(files.of(member).resolve()) for member in range(members)}, "jsonl"
    if data.kind == "stdlib_code":
        return {member: f"stdlib_code:{data.packages[member]}" for member in range(members)}, "mixed"
    before = "" if data.kind == "mixed" else f"{data.kind}:"
    return {member: f"{before}{entry(data.path, member)}" for member in range(members)}, "mixed"
