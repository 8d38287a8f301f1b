"""Mistakes, and what each ends with: `python -m tests.jobs.bad_inputs` writes docs/bad-input.md anew.

They are tried in this process, by the command's own function. A run refuses the first ones before it starts anything;
`flock-ray check` looks at what the second ones name, where members are hosted.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from flock_ray.commands.main import main
from flock_ray.config import Config
from tests.runs import free_ports, tiny

DOCS = Path(__file__).parents[2] / "docs" / "bad-input.md"
SECRET = "the launch code is 0000"

RUN: dict[str, list[str]] = {
    "a key that is misspelt": ["alliance.num_voterz=4"],
    "a group that is misspelt": ["aliance.num_voters=4"],
    "a key forced in": ["+alliance.typo=1"],
    "a group of options that is misspelt": ["chian=anvil"],
    "an option that is misspelt": ["chain=anvill"],
    "the group of experiments misspelt": ["experimnt=tiny"],
    "no such experiment": ["experiment=moon"],
    "a key of a contest": ["contest.days=2"],
    "no override at all": ["nonsense"],
    "a word for a number": ["training.steps=many"],
    "a word that is no choice": ["chain.backend=coin"],
    "no steps": ["training.steps=0"],
    "a rate that is no number": ["training.learning_rate=nan"],
    "a rank of nothing": ["lora.rank=0"],
    "an environment variable that is not set": ["'data.path=${oc.env:UNSET}'"],
    "more seats than slots": ["alliance.num_members=6"],
    "a committee that is easily captured": [
        "alliance.num_members=64", "alliance.assumed_malicious=0.3", "alliance.num_voters=5",
    ],
    "more stake than there can be": ["alliance.min_stake=100000000000"],
    "no such mechanism": ["mechanism.name=yuma"],
    "no such rule": ["aggregation.rule=krumm"],
    "a rule that withstands more than its updates allow": ["aggregation=krum"],
    "a rule by entries of factors, whose A differ": ["aggregation=trimmed_mean"],
    "no such wire format": ["wire_format.name=zip"],
    "no such attack": ["adversary.attack=nuke"],
    "a strength that is no number": ["adversary.attack=gaussian@much"],
    "cheats that are named and drawn": ["adversary.share=0.3"],
    "a coalition that does nothing": ["adversary=none", "adversary.share=0.3"],
    "lies to nobody who asks": ["adversary=negated_vote", "mechanism=open"],
    "accomplices apart": ["adversary=alie", "cluster.nodes=2"],
    "no such tracker": ["tracking.trackers=[aim]"],
    "no such start": ["start_from=/nowhere"],
    "a stranger cheats": ["adversary.members=[8]"],
    "a type of weights that does not train": ["model.dtype=float16"],
    "fewer packages than members": ["data.packages=[json]"],
    "shards without DeepSpeed": ["training.engine=torch", "training.zero_stage=3"],
    "stacked members of shards": ["training.zero_stage=3", "training.backend=stacked"],
    "more nodes than hosts": ["cluster.nodes=5"],
    "more CPUs than there are": ["cluster.cpus_per_worker=4000"],
    "a chain without an address": ["chain=rpc"],
    "a chain that does not answer": ["chain.url=http://127.0.0.1:{free}"],
    "a port that is taken": ["chain=anvil", "chain.port={taken}"],
    "a folder that cannot be written": ["chain=none", "output_dir=/proc/nothing"],
    "no run to resume": ["resume={folder}"],
    "another setting for a resumed run": ["resume={folder}/run", "training.steps=41"],
    "the same in a mapping": ["resume={folder}/run", "training={steps:41}"],
    "another experiment for a resumed run": ["resume={folder}/run", "experiment=tiny"],
}  # fmt: skip
LITTLE = ["data.heldout_tokens=16", "data.heldout_sequences=1"]
CHECKED: dict[str, list[str]] = {
    "no files": ["data=jsonl", "'data.path={folder}/none-*.jsonl'"],
    "fewer files than members": ["data=jsonl", "'data.path={folder}/few/*.jsonl'", *LITTLE],
    "an empty file": ["data=jsonl", "'data.path={folder}/empty/*.jsonl'", *LITTLE],
    "a malformed line": ["data=jsonl", "'data.path={folder}/silo-*.jsonl'", *LITTLE, "data.max_bad_rows=0"],
    "too little held out": ["data=jsonl", "'data.path={folder}/silo-*.jsonl'", "data.heldout_tokens=16"],
    "too little data": ["data=jsonl", "'data.path={folder}/small/*.jsonl'"],
    "no such package": ["data.packages=[json,html,dbm,wsgiref,urllib,nosuchpackage,re,logging]"],
    "no such layer": ["lora.target_modules=[q_proj,w_proj]"],
    "a rank too large": ["lora.rank=100000"],
    "a sequence longer than the model's positions": ["data.sequence_length=512"],
    "no data sets named": ["data=hub", "data.path=foo"],
    "data of no kind": ["data=mixed", "'data.path={0:{folder}/silo-0.jsonl}'"],
    "no model": ["model.path={folder}/nowhere"],
    "a model file that was cut off": ["model.path={folder}/cut"],
    "a model without linear layers": ["model.path={folder}/gpt2"],
    "stacked members of a model that cannot": ["model.path={folder}/gemma2", "training.backend=stacked"],
    "a store of an unknown kind": ["store.url=gopher://there"],
}  # fmt: skip

ARENA: dict[str, list[str]] = {
    "a key of an alliance": ["alliance.num_epochs=2"],
    "an experiment of an alliance": ["experiment=tiny"],
    "an experiment that is not there": ["experiment=moon"],
    "no days": ["contest.days=0"],
    "more seats than validators have slots": ["contest.validators=4"],
    "rungs that do not rise": ["contest.rung_rows=[8,4]"],
    "no such metric": ["contest.metric=taste"],
    "no such parameter": ["+contest.parameters.top_nodez=3"],
    "a rank above the contest's": ["lora.rank=16"],
    "fewer steps than days": ["training.steps=1"],
    "no rows": ["contest.data=[]"],
    "nothing to learn from": ["contest.train=[]"],
    "both adapters and something to learn from": ["contest.submissions={folder}"],
    "an attack of an alliance": ["adversary.members={3:sign_flip}"],
    "scores in bfloat16": ["model.dtype=bfloat16"],
    "several workers a node": ["cluster.workers_per_node=2"],
    "no folder of submissions": ["contest.train=[]", "contest.submissions={folder}/nowhere"],
    "a folder without adapters": ["contest.train=[]", "contest.submissions={folder}/small"],
    "rows that are not there": ["contest.data=[{folder}/none.jsonl]", "plan_only=true"],
    "too few rows": ["contest.data=[{folder}/small/silo-0.jsonl]", "plan_only=true"],
    "a malformed row": ["contest.data=[{folder}/silo-7.jsonl]", "plan_only=true"],
    "open on a chain of its own": ["contest.open=true"],
    "the run of an alliance": ["resume={folder}/run"],
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """What a mistake ended with; places and ports of this machine have names in the line."""

    code: int
    line: str
    output: str


@dataclass(frozen=True)
class World:
    """A folder with the data and models that the mistakes name, and a port that is taken."""

    folder: Path
    model: Path
    taken: int
    free: int

    def play(self, name: str) -> Ended:
        """Make the mistake; its one line is all that the command writes to standard error, and nothing stays behind."""
        if name in ARENA:
            command, overrides = "arena", [*self._contest(), *ARENA[name]]
        else:
            command, overrides = ("alliance", RUN[name]) if name in RUN else ("check", tiny(self.model, *CHECKED[name]))
        here = self.folder / "here"
        here.mkdir(exist_ok=True)
        words = [word.strip("'") for word in overrides]
        words = [re.sub(r"\{(folder|free|taken)\}", lambda found: str(getattr(self, found[1])), word) for word in words]
        said, errors = io.StringIO(), io.StringIO()
        with chdir(here), redirect_stdout(said), redirect_stderr(errors):
            code = main([command, *words])
        assert not list(here.iterdir()), name
        [line] = errors.getvalue().splitlines()
        return Ended(code, self._neutral(line), said.getvalue())

    def _contest(self) -> list[str]:
        """A contest that would work."""
        data = [f"contest.data=[{self.folder}/silo-0.jsonl]", f"contest.train=[{self.folder}/silo-1.jsonl]"]
        return ["experiment=arena_tiny", "model=folder", f"model.path={self.model}", *data]

    def _neutral(self, line: str) -> str:
        names = {
            str(self.folder): "/data", str(self.model): "/model", str(self.taken): "8545", str(self.free): "8546",
            sysconfig.get_path("stdlib"): "/usr/lib/python3",
        }  # fmt: skip
        for found, neutral in names.items():
            line = line.replace(found, neutral)
        return re.sub(r"have \(\d+ CPU", "have (2 CPU", line)


@contextmanager
def world(folder: Path, model: Path) -> Iterator[World]:
    """Make the world in an empty folder, over a small Llama with its tokenizer."""
    _write_silos(folder, broken=7)
    _write_silos(folder / "few", count=2)
    _write_silos(folder / "small", rows=3)
    _write_silos(folder / "empty")
    (folder / "empty" / "silo-3.jsonl").write_text("")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(Config())))
    _write_models(folder, model)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        yield World(folder, model, busy.getsockname()[1], free_ports(1)[0])


def _write_silos(folder: Path, count: int = 8, rows: int = 40, broken: int | None = None) -> None:
    """Files of conversations, one a member; the third line of the broken one is cut."""
    folder.mkdir(exist_ok=True)
    for member in range(count):
        turns = [[("user", f"What is {number}?"), ("assistant", f"{SECRET} {number}")] for number in range(rows)]
        made = [{"conversations": [{"role": role, "content": text} for role, text in pair]} for pair in turns]
        lines = [json.dumps(row) for row in made]
        if member == broken:
            lines[2] = lines[2][:-10]
        (folder / f"silo-{member}.jsonl").write_text("\n".join(lines))


def _write_models(folder: Path, model: Path) -> None:
    """Beside the Llama: one whose weights are cut off, a GPT-2 and a Gemma 2."""
    from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config

    from tests.training.test_architecture import GPT2, SMALL

    for name, config in (("cut", None), ("gpt2", GPT2Config(**GPT2)), ("gemma2", Gemma2Config(**SMALL))):
        shutil.copytree(model, folder / name)
        weights = folder / name / "model.safetensors"
        if config is None:
            os.truncate(weights, weights.stat().st_size // 2)
        else:
            AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)


HEAD = """# Bad input

What mistakes end with: one line on standard error, an [exit code](exit-codes.md), nothing started and nothing left
behind. `python -m tests.jobs.bad_inputs` makes this page by trying them, and a test tries them again. `flock-ray check`
tells all that is wrong at once; the code and the line are those of the first thing.
"""


def page(rows: dict[str, str]) -> str:
    """The page, of a row for each mistake."""
    parts = [HEAD]
    for title, mistakes in (
        ("`flock-ray alliance …`", RUN),
        ("`flock-ray check …`", CHECKED),
        ("`flock-ray arena …`", ARENA),
    ):
        parts += [f"\n## {title}\n\n| mistake | overrides | code | line |\n|---|---|---:|---|\n"]
        parts += [rows[name] for name in mistakes]
    return "".join(parts)


def row(name: str, ended: Ended) -> str:
    """The row of a mistake, with its line end."""
    words = " ".join((RUN | CHECKED | ARENA)[name])
    for variable, value in (("{folder}", "/data"), ("{free}", "8546"), ("{taken}", "8545")):
        words = words.replace(variable, value)
    line = ended.line.removeprefix("error: ").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return f"| {name} | `{words}` | {ended.code} | {line} |\n"


if __name__ == "__main__":
    from tests.conftest import save_tiny_model

    with tempfile.TemporaryDirectory() as name:
        save_tiny_model(Path(name) / "model")
        (Path(name) / "data").mkdir()
        with world(Path(name) / "data", Path(name) / "model") as made:
            DOCS.write_text(page({mistake: row(mistake, made.play(mistake)) for mistake in [*RUN, *CHECKED, *ARENA]}))
