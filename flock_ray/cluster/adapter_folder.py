"""The folder `adapter/` of a run: all that somebody else needs to use what was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flock_ray.cluster.contest_spec import ContestInfo
from flock_ray.cluster.launch import lora_spec
from flock_ray.cluster.spec import GroupInfo
from flock_ray.config import ArenaConfig, Config, ModelConfig
from flock_ray.lora.peft_io import LoraSpec, save_peft
from flock_ray.lora.serialization import rank_of
from flock_ray.protocol.encoding import to_hex
from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import write_text
from flock_ray.telemetry.model_card import Base, model_card
from flock_ray.telemetry.views import MemberTotal
from flock_ray.training.model import PACKAGED_HUB_NAME, PACKAGED_LICENCE
from flock_ray.training.model_files import copy_tokenizer, licence_of


def write_adapter_folder(
    folder: Path,
    adapter: bytes,
    config: Config,
    loaded: GroupInfo,
    summary: Mapping[str, Any],
    members: Sequence[MemberTotal],
    anchor: bytes,
    tell: Callable[[str], None],
) -> None:
    """Write factors, configuration, tokenizer and model card.

    The base model is named by its folder on this machine, so that it opens without a network; one of a hub by its id.

    Args:
        folder: made if missing.
        adapter: canonical bytes of the final adapter.
        config: of the run.
        loaded: what a node group told of its base model.
        summary: of the run.
        members: every member, in registration order.
        anchor: of the run.
        tell: takes a line for people.
    """
    model, local = config.model, Path(loaded.model_folder)
    here = (local / "config.json").is_file()
    hub_name, name, revision = _names(model, local, here)
    spec = lora_spec(config)
    licence = PACKAGED_LICENCE if model.source == "packaged" else licence_of(local)
    base = Base(loaded.model_name, hub_name, to_hex(loaded.hashes.weights), licence)
    with run_folder_errors(folder):
        save_peft(folder, adapter, spec, loaded.targets, name, revision)
        if here:
            copy_tokenizer(local, folder)
    if not here:
        tell(f"The base model is not on this machine: {folder} has no tokenizer, and names the base as {name}")
    write_text(folder / "README.md", model_card(summary, members, base, spec.rank, spec.alpha, to_hex(anchor)))


def write_leader_folder(
    folder: Path, adapter: bytes, config: ArenaConfig, loaded: ContestInfo, tell: Callable[[str], None]
) -> None:
    """Write the leader of a contest as PEFT's folder, of whatever rank it is; scaling 1.

    Args:
        folder: made if missing.
        adapter: canonical bytes.
        config: of the run.
        loaded: what a node group told of its base model.
        tell: takes a line for people.
    """
    local = Path(loaded.model_folder)
    here = (local / "config.json").is_file()
    _, name, revision = _names(config.model, local, here)
    rank = rank_of(adapter)
    with run_folder_errors(folder):
        save_peft(folder, adapter, LoraSpec(rank, rank, loaded.targets), loaded.targets, name, revision)
        if here:
            copy_tokenizer(local, folder)
    if not here:
        tell(f"The base model is not on this machine: {folder} has no tokenizer, and names the base as {name}")


def _names(model: ModelConfig, local: Path, here: bool) -> tuple[str, str, str]:
    """(name on the hub or empty, name for PEFT, revision) of a base model whose files may be here."""
    hub_name = {"packaged": PACKAGED_HUB_NAME, "hub": model.path}.get(model.source, "")
    name = hub_name if model.source == "hub" or (hub_name and not here) else str(local)
    return hub_name, name, model.revision if model.source == "hub" and model.revision != "main" else ""
