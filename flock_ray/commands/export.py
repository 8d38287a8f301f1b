"""`flock-ray export`: a run's result in the form that other tools take."""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import safetensors
from transformers import PreTrainedModel

from flock_ray.cluster.run_directory import RunDirectory, load_any_config
from flock_ray.commands.settings import ExportSettings, read_settings
from flock_ray.commands.trained import Trained, finished_run, load_trained
from flock_ray.errors import ConfigError, RunDirectoryError, StoreError
from flock_ray.lora.peft_io import inject, load_adapter
from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import read_json, write_json
from flock_ray.training.model import PACKAGED_HUB_NAME, PACKAGED_LICENCE
from flock_ray.training.model_files import copy_tokenizer, licence_of, write_for_older_readers


def merged_model(trained: Trained) -> PreTrainedModel:
    """The base model with the adapter's products added to its weights, in the base model's type.

    The sum is made in float32 and rounded once.
    """
    model, dtype = trained.base.model.float(), trained.base.dtype
    tuned = inject(model, trained.spec)
    load_adapter(tuned, trained.adapter)
    merged: PreTrainedModel = tuned.merge_and_unload().to(dtype)
    merged.config.use_cache = True
    return merged


def export(asked: Namespace) -> None:
    """Write the merged model's folder, or put the adapter on the hub; print where it is."""
    settings = read_settings(ExportSettings, asked.settings)
    if settings.to == "merged":
        print(f"Merged model: {_export_merged(settings)}")
    else:
        print(f"Adapter on the hub: {_export_to_hub(settings)}")


def _export_merged(settings: ExportSettings) -> Path:
    run = finished_run(settings.run)
    target = Path(settings.path).expanduser().resolve() if settings.path else run.path / "merged"
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise ConfigError(f"path={target} is there already, and not empty; name another folder, or remove it")
    trained = load_trained(settings.run)
    with run_folder_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".merging-"))
        try:
            merged_model(trained).save_pretrained(draft)
            copy_tokenizer(trained.base.folder, draft)
            write_for_older_readers(draft)
            (draft / "README.md").write_text(_merged_card(run, trained))
            _readable_by_all(draft)
            shutil.rmtree(target, ignore_errors=True)  # an empty one
            draft.rename(target)
        except safetensors.SafetensorError as error:  # the disk is full, say: it wraps what the system said
            raise RunDirectoryError(f"{target} cannot be written: {error}") from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def _merged_card(run: RunDirectory, trained: Trained) -> str:
    """README.md of the folder; the adapter's own card says what it was trained on."""
    summary = read_json(run.path / "summary.json")
    licence = PACKAGED_LICENCE if trained.config.model.source == "packaged" else licence_of(trained.base.folder)
    head = [
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *([f"license: {licence}"] if licence else []),
    ]
    more = (
        "who submitted it, and its scores, is in `leaderboard.html` of the run"
        if summary.get("kind") == "contest"
        else "its own card, with data, losses and members, is `adapter/README.md` of the run"
    )
    return (
        "\n".join(("---", *head, "---"))
        + f"\n\n# {trained.base.name}, with an adapter merged in\n\nThe weights of {trained.base.name} with the LoRA"
        f" adapter of run {run.run_id} added, in {trained.base.dtype}. Hash of the adapter:"
        f" `{summary['final_adapter_hash']}`; {more}.\n"
    )


def _readable_by_all(folder: Path) -> None:
    """As files are that are not written as drafts."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o755 if file.is_dir() else 0o644)


def _export_to_hub(settings: ExportSettings) -> str:
    """Upload `adapter/`, whose base is then named by its id on the hub.

    Raises:
        ConfigError: the id is missing, or no token is.
        StoreError: the hub does not take it, or does not answer.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError

    run = finished_run(settings.run)
    if not settings.path:
        raise ConfigError("path=ORG/NAME is missing: the repository on the hub, which is made if it is not there")
    if not get_token():
        raise ConfigError("to=hub needs a token of the Hugging Face hub: log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(run.adapter, Path(name) / "adapter"))
        _name_base_for_others(run, folder)
        try:
            api.create_repo(settings.path, private=settings.private == "true", exist_ok=True)
            api.upload_folder(repo_id=settings.path, folder_path=folder, commit_message=f"Adapter of run {run.run_id}")
        except HFValidationError as error:
            raise ConfigError(f"path={settings.path} is no id of a repository, ORG/NAME: {error}") from None
        except Exception as error:  # the hub's errors have no class in common
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise StoreError(f"the hub did not take {settings.path}: {reason}") from None
    return f"{api.endpoint}/{settings.path}"


def _name_base_for_others(run: RunDirectory, folder: Path) -> None:
    """Name the base model by its id on the hub, where it has one: a path of this machine helps nobody else."""
    model = load_any_config(run.path).model
    hub_name = {"packaged": PACKAGED_HUB_NAME, "hub": model.path}.get(model.source)
    if hub_name:
        path = folder / "adapter_config.json"
        config: dict[str, Any] = read_json(path)
        write_json(path, config | {"base_model_name_or_path": hub_name})
