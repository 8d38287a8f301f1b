"""`flock-ray serve`: serve what was trained, through the API that OpenAI's clients speak.

`--help` lists the groups, `--cfg job` the configuration. Everything is checked before Ray starts; Ctrl-C ends it once
the answers that are being made are whole.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from flock_ray.chain.eip712 import Domain
from flock_ray.chain.words import format_tokens
from flock_ray.cluster.interrupts import check_interrupted
from flock_ray.cluster.placement import available_cpus, in_ray_job
from flock_ray.commands.chain_check import check_chain
from flock_ray.commands.composed import play_each
from flock_ray.commands.outcome import explained
from flock_ray.commands.serving_plan import Opened, Places, open_market
from flock_ray.config import ClusterMode, MoneyKind, ServeConfig, check_serve, register, typed_serve
from flock_ray.errors import FlockRayError, PlacementError, ServeError
from flock_ray.market.models import Lineage
from flock_ray.telemetry.table import Console

_TICK = 0.2  # seconds between two looks
_REACHED = 120.0  # seconds from when all runs until it is reached
_QUESTION = "What does json.loads do?"


def serve(overrides: Sequence[str]) -> int:
    """Serve what the overrides configure until somebody ends it; returns the exit code."""
    register()
    return play_each(
        "flock-ray serve", "serve", overrides, ServeConfig, lambda composed, _: play(typed_serve(composed))
    )


def play(config: ServeConfig, meanwhile: Callable[[Opened], None] | None = None, domain: Domain | None = None) -> None:
    """Check, start, say how to use it, and serve.

    Args:
        config: of what is served.
        meanwhile: what to do once it is served; after that it ends. None: serve until somebody ends it.
        domain: see `open_market`.
    """
    check_serve(config)
    if in_ray_job():
        config = replace(config, cluster=replace(config.cluster, mode=ClusterMode.existing))
    console = Console()
    _check_fit(config, [{"CPU": float(available_cpus())}] if config.cluster.mode is ClusterMode.local else None)
    opened = open_market(config, console, domain)
    if config.money.kind is MoneyKind.chain:
        check_chain(config.money, Places.of(config))
    show_models(opened, console)
    # These import Ray, so only after everything else was checked.
    from flock_ray.cluster.runtime import machines, ray_cluster, ray_failures
    from flock_ray.market.deployments import deployed

    job = in_ray_job()  # its cluster gives it seconds to end
    with _no_run(), ray_cluster(config.cluster) as watchdog, ray_failures():
        watchdog.describe = lambda: "what was served is down"
        _check_fit(config, machines())
        console.line("Starting: the base model is loaded by each engine")
        started = _waiting(config.cluster.load_timeout, "the engines do not start within {:g} s (cluster.load_timeout)")
        unreached = (
            f"nothing answers at {opened.url} after {{:g}} s; if Ray Serve of this cluster listens elsewhere, name that"
            " as host and port, or end it: serve shutdown"
        )
        reached = _waiting(_REACHED, unreached)
        with deployed(opened.deployment, started, forget=job):
            reached(lambda: _answers(opened.url))
            if meanwhile is not None:
                meanwhile(opened)
                return
            show_use(opened, console)
            with suppress(KeyboardInterrupt):
                while True:
                    check_interrupted()
                    time.sleep(_TICK)
            console.line("Ending: answers that are being made are finished first")


@contextmanager
def _no_run() -> Iterator[None]:
    """What Ray's errors say of a run that can be resumed is left out: here is none."""
    try:
        yield
    except FlockRayError as error:
        told = explained(error, None)
        raise told from error


def _check_fit(config: ServeConfig, machines: Sequence[dict[str, float]] | None) -> None:
    """Refuse engines for which these machines have too little; None: it is not known yet.

    Raises:
        PlacementError: with the numbers.
    """
    cluster = config.cluster
    need = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    need = {name: amount for name, amount in need.items() if amount}
    if machines is None or not need:
        return
    local_gpus = cluster.mode is ClusterMode.local and len(machines) == 1  # those of this machine Ray counts later
    room = sum(
        min(int(one.get(name, cluster.nodes if name == "GPU" and local_gpus else 0) // need[name]) for name in need)
        for one in machines
    )
    if room < cluster.nodes:
        asked = " and ".join(f"{amount:g} {name}" for name, amount in need.items())
        raise PlacementError(
            f"{cluster.nodes} engines of {asked} each do not fit: {len(machines)} machine(s) have room for {room};"
            " lower cluster.nodes or cluster.cpus_per_worker"
        )


def _waiting(seconds: float, otherwise: str) -> Callable[[Callable[[], bool]], None]:
    """What waits until something holds, and ends by Ctrl-C and when Ray is lost."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while not condition():
            check_interrupted()
            if time.monotonic() > end:
                raise ServeError(otherwise.format(seconds))
            time.sleep(_TICK)

    return wait


def _answers(url: str) -> bool:
    """Whether a gateway of ours and its engine answer."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            return bool(json.load(answer)["status"] == "ok")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def show_models(opened: Opened, console: Console) -> None:
    """A table of what is served."""
    aliases: dict[bytes, list[str]] = {}
    for alias, adapter in opened.snapshot.aliases.items():
        aliases.setdefault(adapter, []).append(alias)
    console.rows(
        "models",
        ("model", "also", "from", "price of a million tokens in, out", "licence"),
        [
            (
                model.id,
                ", ".join(sorted(aliases.get(model.adapter, ()))),
                _origin(model.lineage),
                f"{format_tokens(model.price.prompt * 10**6)}, {format_tokens(model.price.output * 10**6)}",
                model.licences.strictest,
            )
            for model in opened.snapshot.models
        ],
    )


def _origin(lineage: Lineage) -> str:
    unit = "day" if lineage.kind == "contest" else "epoch"
    return f"{lineage.kind} 0x{lineage.task.hex()[:8]}, {unit} {lineage.epoch}"


def show_use(opened: Opened, console: Console) -> None:
    """Where it is, a key if a new one was made, and a command that works."""
    url, secret = opened.url, opened.first_key()
    console.line(f"\nServed at {url}/v1   pages {url}/   documentation {url}/docs   figures {url}/metrics")
    if secret:
        console.line(f"A first key, which is shown this once: {secret}")
    else:
        console.line("Keys: flock-ray key list, flock-ray key create; FLOCK_RAY_KEY stands for one here")
    console.line(curl_line(url, secret or "$FLOCK_RAY_KEY", opened.snapshot.models[-1].id))
    console.line("Ctrl-C ends it")


def curl_line(url: str, key: str, model: str) -> str:
    """A command that has a model answer, as a stream."""
    body = {"model": model, "messages": [{"role": "user", "content": _QUESTION}], "max_tokens": 64, "stream": True}
    return (
        f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json'"
        f" -H \"Authorization: Bearer {key}\" -d '{json.dumps(body)}'"
    )
