"""Hashes that must not change unless the protocol does: `python -m tests.golden` writes `tests/golden.json` anew.

A simulated run says what members sign, how they are judged and what becomes the global adapter; the default experiment,
what a task is called and who has which role in it.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.simulated import SimulatedWorker, Simulation
from flock_ray.adversary.behaviour import Behaviour
from flock_ray.chain.keys import run_signer
from flock_ray.cluster.launch import chain_terms, terms_of
from flock_ray.cluster.member import Member
from flock_ray.cluster.spec import with_model
from flock_ray.config import (
    AdversaryConfig,
    AllianceConfig,
    ChainBackend,
    ChainConfig,
    ClusterConfig,
    Config,
    LoraConfig,
    ModelConfig,
    TrainingConfig,
)
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_io import adapter_shapes
from flock_ray.lora.serialization import adapter_hash
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.roles import Roles, roles
from flock_ray.protocol.seed import fixed_genesis, local_seed, next_seed, reveals_digest
from flock_ray.protocol.state import Terms
from flock_ray.training.model import model_hashes, prepare_packaged
from tests.cluster.plain_alliance import PlainAlliance
from tests.runs import configure

GOLDEN = Path(__file__).with_name("golden.json")


def simulated_config() -> Config:
    """Eight members on two nodes, one of whom sends harm, over three epochs."""
    return Config(
        seed=2,
        model=ModelConfig(source="simulated", path=Simulation(16).path),
        lora=LoraConfig(rank=4),
        training=TrainingConfig(steps=2, batch_size=1),
        alliance=AllianceConfig(band_floor=1, band_ceiling=1_000_000),
        adversary=AdversaryConfig(attack="sign_flip", members=[5]),
        chain=ChainConfig(backend=ChainBackend.none),
        cluster=ClusterConfig(nodes=2),
    )


def simulated_run(folder: Path) -> dict[str, Any]:
    """Play a run with training and scoring simulated, in this process and without Ray."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        config = simulated_config()
        play = PlainAlliance(folder, config, SimulatedWorker).found(config.seed)
        epochs = []
        while not play.state.finished:
            record, bulletin = play.until_signing()
            attestation = play.attest(record, bulletin)
            signed = sorted((one.data, one.signature) for one in bulletin)
            epochs.append(
                {
                    "voters": list(record.roles.voters),
                    "proposers": list(record.roles.proposers),
                    "verdicts": {str(one.member): one.status for one in record.proposals},
                    "slashed": {str(one.member): str(one.amount) for one in record.slashes},
                    "adapter": to_hex(record.adapter),
                    "record": to_hex(record.digest),
                    "messages": to_hex(sha256(b"".join(data + signature for data, signature in signed))),
                    "signatures": to_hex(sha256(b"".join(one for _, one in sorted(attestation.signatures.items())))),
                }
            )
        return {"task": to_hex(play.state.scope.task), "start": to_hex(play.first_adapter), "epochs": epochs}
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


@cache
def shapes_of(rank: int, target_modules: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of an adapter of the packaged model."""
    config = AutoConfig.from_pretrained(prepare_packaged())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return adapter_shapes(model, target_modules, rank)


def packaged_terms(config: Config) -> Terms:
    """The terms of a task over the packaged model."""
    shapes = shapes_of(config.lora.rank, tuple(config.lora.target_modules))
    adapter = adapter_hash(initial_adapter(shapes, local_seed(config.seed, "adapter")))
    creator = run_signer(config.seed, "creator").address
    return with_model(terms_of(config), creator, model_hashes(prepare_packaged()), adapter)


def task_of(config: Config) -> bytes:
    """Id of that task where no chain is used, or one that the run makes for itself."""
    terms = packaged_terms(config)
    return chain_terms(config, terms).task_id(terms.creator, fixed_genesis(config.seed))


def drawn(config: Config, folder: Path) -> list[Roles]:
    """The roles of all epochs of a run in which every voter reveals."""
    alliance = config.alliance
    task, seed = task_of(config), fixed_genesis(config.seed)
    reveals = alliance.num_epochs + alliance.spare_reveals
    chains = [
        Member(
            number, run_signer(config.seed, f"member-{number}"), folder / str(number), Behaviour(1.0), reveals
        ).hash_chain(task)
        for number in range(alliance.num_members)
    ]
    found = []
    for epoch in range(1, alliance.num_epochs + 1):
        owners = tuple(range(alliance.num_members))
        found.append(roles(seed, task, epoch, owners, alliance.num_voters, alliance.num_proposers))
        seed = next_seed(seed, reveals_digest({one: chains[one].preimage(epoch) for one in found[-1].voters}))
    return found


def default_experiment(folder: Path) -> dict[str, Any]:
    """What the default experiment's configuration and base model alone decide."""
    config = configure()
    terms = packaged_terms(config)
    return {
        "configuration": to_hex(terms.configuration),
        "base_model": to_hex(terms.base_model),
        "terms": to_hex(terms.digest()),
        "task": to_hex(task_of(config)),
        "epochs": [{"voters": list(one.voters), "proposers": list(one.proposers)} for one in drawn(config, folder)],
    }


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as name:
        found = {
            "simulated_run": simulated_run(Path(name) / "run"),
            "default_experiment": default_experiment(Path(name) / "default"),
        }
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
