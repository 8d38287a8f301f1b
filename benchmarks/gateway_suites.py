"""Other people's clients and suites against a gateway with a real model, each in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import step, tell
from benchmarks.gateway_process import new_key, running
from benchmarks.peers.environments import MADE, PEERS, python_of

MODEL = "base"
COMPATCANARY = "compatcanary@0.2.2"
NOT_OFFERED = ("chat.tool_call", "chat.structured_output")
"""Probes of compatcanary for what this gateway refuses by name: it does not pass them, and says so."""

Found = dict[str, Any]
LIKELY = (
    ("The capital of France is", [" Paris", " spoon"]),
    ("Two plus two is", [" four", " window"]),
    ("Water freezes into", [" ice", " music"]),
    ("The sun rises in the", [" east", " pocket"]),
)  # fmt: skip


def run_all(folder: Path) -> tuple[Found, dict[str, float]]:
    """(what each suite did, how many passed)."""
    _, secret = new_key(folder)
    suites: dict[str, Callable[[str, str], Found]] = {
        "openai": _openai, "litellm": _litellm, "lm_eval": _lm_eval, "compatcanary": _compatcanary,
    }  # fmt: skip
    found: dict[str, Found] = {}
    with running(folder, "smollm2") as gateway:
        for name, suite in suites.items():
            with step(f"client suite {name}"):
                try:
                    found[name] = suite(gateway.url, secret)
                except SystemExit as error:
                    found[name] = {"passed": False, "why": str(error)}
            tell(f"{name}: {found[name]}")
    return found, {"client_suites_passed": sum(bool(suite["passed"]) for suite in found.values())}


def _lines(command: Sequence[str]) -> Found:
    """A script that prints a line for each check that passed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    passed = [line.removeprefix("passed ") for line in done.stdout.splitlines() if line.startswith("passed ")]
    why = "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1:]
    return {"passed": done.returncode == 0 and bool(passed), "checks": passed, **({"why": why} if why else {})}


def _openai(url: str, secret: str) -> Found:
    return _lines([sys.executable, str(PEERS / "openai_client.py"), url, secret, MODEL])


def _litellm(url: str, secret: str) -> Found:
    return _lines([str(python_of("litellm")), str(PEERS / "litellm_client.py"), url, secret, MODEL])


def _lm_eval(url: str, secret: str) -> Found:
    """`local-completions` by log likelihood, `local-chat-completions` by generation, on questions of our own."""
    from flock_ray.training.model import prepare_packaged  # slow, and needed here alone

    python, tokenizer = python_of("lm_eval"), prepare_packaged()
    with tempfile.TemporaryDirectory() as work:
        tasks = Path(work)
        rows = [{"text": text, "choices": choices, "gold": 0} for text, choices in LIKELY]
        (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        likelihood = {
            "task": "likely", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{tasks}/rows.jsonl"}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{text}}",
            "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}", "target_delimiter": "",
            "metric_list": [{"metric": "acc"}],
        }  # fmt: skip
        written = {
            **{name: likelihood[name] for name in ("dataset_path", "dataset_kwargs", "test_split", "doc_to_text")},
            "task": "written", "output_type": "generate_until", "doc_to_target": "{{choices[0]}}",
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 24, "temperature": 0},
            "metric_list": [{"metric": "exact_match"}],
        }  # fmt: skip
        for task in (likelihood, written):
            (tasks / f"{task['task']}.yaml").write_text(json.dumps(task))  # JSON is YAML
        common = f"model={MODEL},num_concurrent=2,max_retries=1"
        backend = f"tokenizer_backend=huggingface,tokenizer={tokenizer}"
        likely = _evaluate(
            python, tasks, "likely", "local-completions", f"base_url={url}/v1/completions,{common},{backend}", secret
        )
        chat = _evaluate(
            python, tasks, "written", "local-chat-completions", f"base_url={url}/v1/chat/completions,{common}", secret
        )
    accuracy = likely.get("results", {}).get("likely", {}).get("acc,none")
    answers = [sample["resps"][0][0] for sample in chat.get("samples", [])]
    passed = accuracy == 1.0 and len(answers) == len(LIKELY) and all(answers)
    return {
        "passed": passed, "local-completions": {"acc": accuracy, **_why(likely)},
        "local-chat-completions": {"answers": len(answers), **_why(chat)},
    }  # fmt: skip


def _why(found: Found) -> Found:
    return {"why": found["why"]} if "why" in found else {}


def _evaluate(python: Path, tasks: Path, task: str, kind: str, arguments: str, secret: str) -> Found:
    """The results of one run of lm_eval, with its samples."""
    out = tasks / f"out_{task}"
    command = [
        str(python), "-m", "lm_eval", "--model", kind, "--model_args", arguments, "--tasks", task, "--include_path",
        str(tasks), "--output_path", str(out), "--log_samples", "--batch_size", "1",
        *(["--apply_chat_template"] if "chat" in kind else []),
    ]  # fmt: skip
    hidden = {**os.environ, "OPENAI_API_KEY": secret, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tasks / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=hidden)
    results = sorted(out.rglob("results_*.json"))
    if done.returncode or not results:
        return {"why": (done.stderr or done.stdout).strip().splitlines()[-3:]}
    samples = [json.loads(line) for path in out.rglob("samples_*.jsonl") for line in path.read_text().splitlines()]
    return {**json.loads(results[-1].read_text()), "samples": samples}


def _compatcanary(url: str, secret: str) -> Found:
    """Its probes of chats; those of what is not offered fail, and are told apart."""
    if shutil.which("npm") is None:
        raise SystemExit("npm is not installed")
    folder = MADE / "compatcanary"
    folder.mkdir(parents=True, exist_ok=True)
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), COMPATCANARY]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        raise SystemExit(f"cannot install {COMPATCANARY}")
    command = [
        "node", str(folder / "node_modules" / "compatcanary" / "src" / "cli.js"), "scan", "--base-url", f"{url}/v1",
        "--model", MODEL, "--profile", "chat", "--format", "json", "--timeout", "300",
    ]  # fmt: skip
    hidden = {**os.environ, "OPENAI_API_KEY": secret}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=hidden)
    results = json.loads(done.stdout)["results"]
    passed = [one["id"] for one in results if one["status"] == "pass"]
    failed = {one["id"]: one["summary"] for one in results if one["status"] != "pass"}
    return {
        "passed": not failed, "probes": passed,
        "not_offered": {name: why for name, why in failed.items() if name in NOT_OFFERED},
        "failed": {name: why for name, why in failed.items() if name not in NOT_OFFERED},
    }  # fmt: skip
