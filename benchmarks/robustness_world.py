"""The world that robustness is measured in: a small model that has seen other code, and members with packages of it.

A Llama of 107 thousand parameters learns the standard library's `pydoc_data`; twenty members then train adapters on one
package each. Two silos are written as rows: the left-handed member's, every line from its end to its beginning, true
but unlike all others, and one whose tokens are in another order, which teaches nothing but how often each is used.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils import clip_grad_norm_
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from benchmarks.common import step
from flock_ray.cluster.launch import data_spec
from flock_ray.config import (
    AdversaryConfig,
    AggregationConfig,
    AllianceConfig,
    ChainBackend,
    ChainConfig,
    Config,
    DataConfig,
    LoraConfig,
    MechanismConfig,
    ModelConfig,
    TrainingConfig,
)
from flock_ray.training.stdlib_code import files_of

PACKAGES = (
    "asyncio", "email", "unittest", "xml", "http", "json", "logging", "multiprocessing", "importlib", "concurrent",
    "ctypes", "urllib", "collections", "wsgiref", "html", "curses", "re", "idlelib", "encodings", "xmlrpc",
)  # fmt: skip
LEFT_HANDED, SHUFFLED, NOISE = 17, 9, 5
"""Members whose silos, or whose updates, are odd where a cell asks for it."""
ODD = "odd"
"""In place of an attack."""
_LEARNED = "pydoc_data"
_VOCABULARY, _BATCH, _PEAK = 512, 16, 3e-3


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        name: of the folder.
        base_steps: of the base model's own training.
        members, voters, proposers, epochs, steps: of the alliance.
        heldout_tokens: that a score is of.
        num_malicious: that Multi-Krum is to withstand where all updates count, and where only accepted ones do.
    """

    name: str
    base_steps: int
    members: int
    voters: int
    proposers: int
    epochs: int
    steps: int
    heldout_tokens: int
    num_malicious: tuple[int, int]


WHOLE = Scale("whole", 500, 20, 13, 7, 8, 15, 1024, (2, 1))
QUICK = Scale("quick", 60, 20, 13, 5, 2, 3, 256, (1, 0))


@dataclass(frozen=True)
class Cell:
    """One task to play.

    Attributes:
        mechanism, rule: that pays, and that combines.
        attack: `adversary.attack`, or `ODD`; `none` in a clean cell.
        share: of the members that cheat.
        seed: of the run.
    """

    mechanism: str
    rule: str
    attack: str
    share: float
    seed: int

    def __str__(self) -> str:
        who = f"{self.attack} of {self.share:.0%}" if self.share else "odd silos" if self.attack == ODD else "clean"
        return f"{self.mechanism}, {self.rule}, {who}, seed {self.seed}"

    @property
    def clean(self) -> Cell:
        """The cell that it is held against."""
        return Cell(self.mechanism, self.rule, "none", 0.0, self.seed)


class World:
    """Model, silos and configurations of one scale.

    Attributes:
        scale: how large.
        folder: of the files, relative to the working directory: configurations name it.
    """

    def __init__(self, scale: Scale) -> None:
        """Write the files that are not there yet."""
        self.scale, self.folder = scale, Path("outputs") / "robustness" / scale.name
        self._files = self._model, self._left_handed, self._shuffled = [
            self.folder / name for name in ("model", "left_handed.jsonl", "shuffled.jsonl")
        ]
        if not self._shuffled.exists():  # the last one
            with step(f"robustness: a base model of {scale.base_steps} steps, and odd silos"):
                self._write()

    @property
    def digest(self) -> str:
        """SHA-256 of all files, 64 hex digits: rows of another base model are of another world."""
        digest = sha256()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(self.folder)}\0".encode() + sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def config(self, cell: Cell) -> Config:
        """What a cell plays."""
        scale, odd = self.scale, cell.attack == ODD
        data = DataConfig(
            packages=list(PACKAGES[: scale.members]), sequence_length=64, heldout_tokens=scale.heldout_tokens
        )
        adversary = AdversaryConfig(attack=cell.attack, share=cell.share)
        if odd:
            silos = {member: f"stdlib_code:{package}" for member, package in enumerate(data.packages)}
            silos |= {LEFT_HANDED: f"jsonl:{self._left_handed}", SHUFFLED: f"jsonl:{self._shuffled}"}
            data.kind, data.path = "mixed", silos
            adversary = AdversaryConfig(attack="gaussian", members=[NOISE])
        return Config(
            seed=cell.seed,
            model=ModelConfig(source="folder", path=str(self._model), dtype="float32"),
            data=data,
            lora=LoraConfig(rank=4, alpha=8),
            training=TrainingConfig(steps=scale.steps, batch_size=4, learning_rate=2e-3, cohort_tokens=8192),
            alliance=AllianceConfig(
                num_members=scale.members,
                num_voters=scale.voters,
                num_proposers=scale.proposers,
                num_epochs=scale.epochs,
                assumed_malicious=0.3,
            ),
            mechanism=MechanismConfig(name=cell.mechanism),
            aggregation=AggregationConfig(cell.rule, self._parameters(cell)),
            adversary=adversary,
            chain=ChainConfig(backend=ChainBackend.none),
        )

    def _parameters(self, cell: Cell) -> dict[str, int]:
        """Of the rule: with more to withstand than this, an epoch of a refused proposal or two has too few updates."""
        if cell.rule == "mean":
            return {}
        return {"num_malicious": self.scale.num_malicious[cell.mechanism.startswith("marginal")]}

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text, threads = self._text(_LEARNED), torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            _write_model(self._model, text, self.scale.base_steps)
        finally:
            torch.set_num_threads(threads)
        tokenizer = AutoTokenizer.from_pretrained(self._model)
        backwards = "\n".join(line[::-1] for line in self._text(PACKAGES[LEFT_HANDED]).split("\n"))
        _write_rows(self._left_handed, tokenizer, _chunks(tokenizer, backwards))
        chunks = _chunks(tokenizer, self._text(PACKAGES[SHUFFLED]))
        for number, chunk in enumerate(chunks):
            random.Random(number).shuffle(chunk)
        _write_rows(self._shuffled, tokenizer, chunks)

    def _text(self, package: str) -> str:
        files = files_of(data_spec(Config(data=DataConfig(packages=[package]))), 0)
        return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def _chunks(tokenizer: PreTrainedTokenizerBase, text: str) -> list[list[int]]:
    """The tokens of a text, 65 at a time, which is a sequence of the other silos."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [ids[start : start + 65] for start in range(0, len(ids) - 64, 64)]


def _write_rows(path: Path, tokenizer: PreTrainedTokenizerBase, chunks: list[list[int]]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in tokenizer.batch_decode(chunks)))


def _write_model(folder: Path, text: str, steps: int) -> None:
    """A two-layer Llama that was trained on a text, and its tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = ["<pad>", "<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        text.splitlines(keepends=True),
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    shape = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(fast), max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape)
    _learn(model, torch.tensor(fast(text, add_special_tokens=False, verbose=False)["input_ids"]), steps)
    model.save_pretrained(folder)


def _learn(model: LlamaForCausalLM, ids: torch.Tensor, steps: int) -> None:
    """AdamW on stretches of 65 tokens; the rate rises for a tenth of the steps, and falls by a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK, weight_decay=0.01)
    generator = torch.Generator().manual_seed(1)
    for number in range(steps):
        starts = torch.randint(0, len(ids) - 65, (_BATCH,), generator=generator).tolist()
        rows = torch.stack([ids[start : start + 65] for start in starts])
        rate = _PEAK * min(1, 10 * (number + 1) / steps) * (1 + math.cos(math.pi * number / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
