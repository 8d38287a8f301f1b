"""`flock-ray serve` as a user starts it: Ray Serve, HTTP, a small model with adapters."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, OpenAI

from flock_ray.lora.serialization import canonical_bytes
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import Row, State
from flock_ray.market.models import Lora, Model
from flock_ray.market.registry import Registry
from flock_ray.serving.request import Request
from flock_ray.training.model import model_hashes
from tests.market.entries import entry
from tests.runs import ROOT, command_running, free_ports, processes
from tests.serving.players import TODAY, adapter_of, engine_of, loaded, source_of, spec_of
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.ray

HELLO = [{"role": "user", "content": "import json"}]
SERVE = (sys.executable, "-u", "-m", "flock_ray", "serve")


@dataclass
class Deployed:
    """A deployment that runs, and what its command has printed."""

    folder: Path
    port: int
    models: list[Model]
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    @property
    def curl(self) -> str:
        return next(line for line in self.output.splitlines() if line.startswith("curl "))

    @property
    def secret(self) -> str:
        return re.search(r"this once: (\S+)", self.output)[1]  # type: ignore[index]

    def client(self) -> OpenAI:
        return OpenAI(api_key=self.secret, base_url=f"{self.url}/v1", max_retries=0, timeout=PATIENCE)

    def row(self, answer: str) -> Row:
        with Ledger.open(f"sqlite:///{self.folder / 'ledger.db'}", create=False) as ledger:
            row = ledger.row(bytes.fromhex(answer.removeprefix("chatcmpl-")))
        assert row is not None
        return row

    def figure(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE) as page:
            told = page.read().decode()
        found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", told, re.MULTILINE)
        assert found, f"no {name} in:\n{told}"
        return float(found[1])

    def engine_pid(self) -> int:
        [pid] = [pid for pid, line in self.processes().items() if "ServeReplica:flock-ray:engine" in line]
        return pid

    def processes(self) -> dict[int, str]:
        return processes(self.process.mark)  # type: ignore[attr-defined]


def publish(folder: Path, model_dir: Path) -> list[Model]:
    """Two adapters of the tiny model, in a registry."""
    base, hashes = loaded(model_dir), model_hashes(model_dir)
    registry = Registry.create(folder / "registry")
    models = []
    for number in range(2):
        spec, data = spec_of(number), canonical_bytes(adapter_of(base, number))
        found = entry(
            data, name=f"tiny-{number}", base=hashes.weights, tokenizer=hashes.tokenizer, template_date=TODAY,
            lora=Lora(spec.rank, spec.alpha, ("q_proj",)),
        )  # fmt: skip
        models.append(registry.publish(found, data))
    return models


def options(folder: Path, model_dir: Path, port: int) -> list[str]:
    return [
        "model=folder", f"model.path={model_dir}", "model.dtype=float32", f"folder={folder}", f"port={port}",
        "engine.context_length=512", "engine.rows=8", "engine.adapter_slots=8",
    ]  # fmt: skip


def is_served(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            return bool(json.load(answer)["status"] == "ok")
    except (OSError, ValueError):
        return False


@contextmanager
def serving(folder: Path, model_dir: Path) -> Iterator[Deployed]:
    models = publish(folder, model_dir)
    [port] = free_ports(1)
    with command_running([*SERVE, *options(folder, model_dir, port)], folder) as process:
        found = Deployed(folder, port, models, process)
        wait_until(lambda: "Ctrl-C ends it" in found.output, process=process)
        yield found


@pytest.fixture(scope="module")
def deployed(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with serving(tmp_path_factory.mktemp("serve"), tiny_model_dir) as found:
        yield found


def test_what_is_printed_works(deployed: Deployed) -> None:
    for model in deployed.models:
        assert model.id in deployed.output
    ended = subprocess.run(deployed.curl, shell=True, capture_output=True, text=True, timeout=PATIENCE)
    lines = [line for line in ended.stdout.splitlines() if line]
    assert lines[-1] == "data: [DONE]", ended.stdout
    assert json.loads(lines[-2].removeprefix("data: "))["receipt"]
    for path in ("/", "/docs", "/playground", "/metrics"):
        assert f"{deployed.url}{path}" in deployed.output or path == "/playground"
        with urllib.request.urlopen(deployed.url + path, timeout=PATIENCE) as page:
            assert page.status == 200


def test_every_adapter_answers_as_itself(deployed: Deployed, tiny_model_dir: Path) -> None:
    with engine_of(tiny_model_dir) as engine, deployed.client() as client:
        prompt = engine.render(HELLO)
        base = loaded(tiny_model_dir)
        adapters = [engine.add_adapter(source_of(base, number)) for number in range(2)]
        wanted = [engine.submit(Request(prompt, one, max_tokens=12)).result().text for one in (*adapters, None)]

        def answer(model: str) -> str:
            made = client.chat.completions.create(model=model, messages=HELLO, max_tokens=12, temperature=0)
            return str(made.choices[0].message.content)

        ids = [*(model.id for model in deployed.models), "base"]
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(answer, ids * 4)) == wanted * 4
    assert len(set(wanted)) == 3


def stream(client: OpenAI, model: str, tokens: int) -> Any:
    return client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=tokens, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip


def longest(client: OpenAI, deployed: Deployed) -> str:
    """The model whose answer is longest: random weights end theirs at a random place."""
    made = {}
    for model in (*(one.id for one in deployed.models), "base"):
        made[model] = sum(bool(chunk.choices) for chunk in stream(client, model, 400))
    return max(made, key=lambda model: made[model])


def test_a_client_that_goes_away_ends_the_answer_and_pays_for_what_came(deployed: Deployed) -> None:
    with deployed.client() as client:
        model = longest(client, deployed)
        events = stream(client, model, 400)
        chunks = [next(events) for _ in range(3)]
        events.close()
    wait_until(lambda: deployed.row(chunks[0].id).state is not State.OPEN)
    wait_until(lambda: deployed.figure("flock_ray_engine_running") == 0)
    row = deployed.row(chunks[0].id)
    assert row.state is State.SETTLED and 0 < row.receipt.receipt.output_tokens <= 400  # type: ignore[union-attr]


def test_an_engine_that_is_killed_is_started_anew(deployed: Deployed) -> None:
    with deployed.client() as client:
        model = longest(client, deployed)
        events = stream(client, model, 400)
        first = next(events)
        killed = deployed.engine_pid()
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(APIError):
            list(events)
        wait_until(lambda: deployed.row(first.id).state is not State.OPEN)
        wait_until(lambda: is_served(deployed.port))
        answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=4)
        assert answer.choices[0].message.content is not None
        assert deployed.engine_pid() != killed


def test_ctrl_c_lets_answers_be_whole_and_leaves_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_model_dir) as found, found.client() as client:
        model, ended = longest(client, found), threading.Event()
        events = stream(client, model, 400)
        chunks = [next(events)]

        def read() -> None:
            chunks.extend(events)
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        found.process.send_signal(signal.SIGINT)
        assert found.process.wait(PATIENCE) == 0, found.output
        reader.join()
        assert ended.is_set() and any(chunk.usage for chunk in chunks)
        assert "Ending: answers that are being made are finished first" in found.output
        wait_until(lambda: not found.processes())


def test_it_is_submitted_as_a_ray_job(head: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    models = publish(tmp_path, tiny_model_dir)
    [port] = free_ports(1)
    job = [str(Path(sys.executable).with_name("ray")), "job"]
    name = f"serve-{port}"
    submit = [*job, "submit", "--address", head.dashboard, "--submission-id", name, "--working-dir", str(ROOT)]
    with command_running(
        [*submit, "--", "python", "jobs/serve.py", *options(tmp_path, tiny_model_dir, port)], tmp_path
    ):
        log = tmp_path / "output"
        wait_until(lambda: "Ctrl-C ends it" in log.read_text() or "error:" in log.read_text())
        curl = next((line for line in log.read_text().splitlines() if line.startswith("curl ")), "")
        assert curl, log.read_text()[-2_000:]
        assert any(model.id in curl for model in models)
        told = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=PATIENCE).stdout
        assert told.strip().endswith("data: [DONE]"), told
        subprocess.run([*job, "stop", "--address", head.dashboard, name], check=True, timeout=PATIENCE)
        wait_until(lambda: not is_served(port))
