"""The adapter that a run goes on from, where it does not start from a new one."""

from __future__ import annotations

from pathlib import Path

from flock_ray.cluster.launch import lora_spec
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.config import Config
from flock_ray.errors import ModelError, RunDirectoryError
from flock_ray.lora.peft_import import adapter_folder, read_peft
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.protocol.encoding import from_hex
from flock_ray.protocol.seed import local_seed
from flock_ray.store.blob_store import BlobStore
from flock_ray.training.model import ModelHashes


def read_start_adapter(config: Config) -> bytes:
    """Canonical bytes of the adapter that `start_from` names; empty where it names none.

    Raises:
        ModelError: it cannot be read, or not as an adapter of this rank.
    """
    if not config.start_from:
        return b""
    folder = adapter_folder(Path(config.start_from).expanduser())
    spec = lora_spec(config)
    return canonical_bytes(read_peft(folder, spec, local_seed(config.seed, "adapter")))


def keep_start_adapter(config: Config, run: RunDirectory, store: BlobStore) -> bytes:
    """Hash of that adapter, which is then in the store; empty where the run starts from a new one.

    A run that is resumed takes the one that its members agreed on, wherever it came from.
    """
    if not config.start_from:
        return b""
    if run.started:
        return from_hex(run.read_task()[0]["terms"]["start_adapter"])
    return store.put(read_start_adapter(config))


def require_same_base(config: Config, hashes: ModelHashes) -> None:
    """Check that the run that the adapter is from, if it is from one, had the same base model.

    Args:
        config: of this run.
        hashes: of its base model.

    Raises:
        ModelError: it had another.
    """
    if not config.start_from:
        return
    earlier = RunDirectory(adapter_folder(Path(config.start_from).expanduser()).parent)
    if not earlier.started:
        return
    try:
        differing = hashes.differing(earlier.read_task()[0]["terms"])
    except (RunDirectoryError, KeyError, TypeError, AttributeError):
        return  # a folder that only looks like a run's
    if differing:
        raise ModelError(
            f"start_from: the adapter in {earlier.path} was trained on another base model: its {differing} differ"
        )
