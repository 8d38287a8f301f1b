"""Plain values that a node group starts from and answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flock_ray.chain.values import TaskTerms
from flock_ray.lora.peft_io import LoraSpec
from flock_ray.protocol.message import SignedMessage
from flock_ray.protocol.state import Terms
from flock_ray.training.counts import RowCounts
from flock_ray.training.data import DataSpec
from flock_ray.training.engine import TrainSettings
from flock_ray.training.model import ModelHashes, ModelSpec


@dataclass(frozen=True)
class HostSpec:
    """What one node group hosts, whatever it computes; the same for every rank of the group.

    Attributes:
        index: number of the group.
        hosts: the logical hosts that it carries, {number: silos in rising order}.
        run_seed: of the run.
        state_dir: folder on the node for the members' private files.
        store_url: of the blob store.
        model: the base model.
        engine: `torch` or `deepspeed`.
        cohort_tokens: budget of a cohort's step.
        behaviours: {silo: name of its member's behaviour}; others are honest.
        adversary_scale: strength of all behaviours that have none in their names; None for each one's own.
        num_epochs: of the task.
        reveals: length of the members' hash chains.
        keystore: folder of keystore files.
        embedded: whether keys derive from the run seed (embedded or no chain) or are loaded (rpc).
        threads: torch threads a worker.
        deterministic: torch's deterministic algorithms.
        terms: what the members agree on; the group fills in who created the task, and what it loads.
        chain_terms: what the contract holds of that; the group fills in its own hashes of terms and adapter.
    """

    index: int
    hosts: dict[int, tuple[int, ...]]
    run_seed: int
    state_dir: str
    store_url: str
    model: ModelSpec
    engine: str
    cohort_tokens: int
    behaviours: dict[int, str]
    adversary_scale: float | None
    num_epochs: int
    reveals: int
    keystore: str
    embedded: bool
    threads: int
    deterministic: bool
    terms: Terms
    chain_terms: TaskTerms

    @property
    def silos(self) -> tuple[int, ...]:
        """Numbers of all silos here: of the data and of the key of an owner, who may be a member of the task."""
        return tuple(silo for silos in self.hosts.values() for silo in silos)


@dataclass(frozen=True)
class GroupSpec(HostSpec):
    """What one node group of an alliance hosts and how it trains.

    Attributes:
        evaluate: how many members measure a global adapter beside those with a role; None for all.
        preload: silos to open at once; others are opened when they are first used.
        data: the members' silos.
        lora: the adapter's shape.
        settings: of the local steps.
        zero_stage, zero_persistence_threshold: for `deepspeed`.
        backend: `sequential`, `stacked`, `grouped`, or `auto`: as the model allows.
        solo: every member is a cohort of its own.
        rank_split: what the ranks of a group share out, `members` or `rows`.
        compiled, checkpointing: see `StackedOptions`.
        start_adapter: hash of the adapter to start from, which is in the store; empty for a new one.
        data_of: {silo: whose data its owner has instead}, of several members of one operator.
    """

    evaluate: int | None
    preload: frozenset[int]
    data: DataSpec
    lora: LoraSpec
    settings: TrainSettings
    zero_stage: int
    zero_persistence_threshold: int
    backend: str
    solo: bool
    rank_split: str
    compiled: bool
    checkpointing: bool
    start_adapter: bytes
    data_of: Mapping[int, int]


@dataclass(frozen=True)
class SiloFacts:
    """What a node tells of a silo: counts and names, never data.

    Attributes:
        silo, name: which.
        num_train, num_heldout: sequences to train on, and to score with.
        num_train_tokens, num_heldout_tokens: that these predict.
        num_train_inputs, num_heldout_inputs: that these hold, predicted or not.
        num_heldout_bytes: of the text that is predicted.
        rows: what became of its rows.
    """

    silo: int
    name: str
    num_train: int
    num_train_tokens: int
    num_train_inputs: int
    num_heldout: int
    num_heldout_tokens: int
    num_heldout_inputs: int
    num_heldout_bytes: int
    rows: RowCounts


@dataclass(frozen=True)
class GroupInfo:
    """What a node tells once it is loaded.

    Attributes:
        accounts: {silo: address of its owner}.
        opened: facts of the silos that it opened.
        model_name: of the base model.
        hashes: of its files.
        model_dtype: `bfloat16` or `float32`.
        num_parameters: of the base model.
        adapter: hash of the adapter that the run starts from, which is in the store.
        model_folder: where the base model's files are on the node.
        targets: names of the adapter's layers, as short as they can be; see `shortest_targets`.
        notes: what people should know of how this model trains here, a line each.
    """

    accounts: Mapping[int, str]
    opened: tuple[SiloFacts, ...]
    model_name: str
    hashes: ModelHashes
    model_dtype: str
    num_parameters: int
    adapter: bytes
    model_folder: str
    targets: tuple[str, ...]
    notes: tuple[str, ...] = ()


def with_model(terms: Terms, creator: str, hashes: ModelHashes, adapter: bytes) -> Terms:
    """The terms with the account that created the task and the hashes of what was loaded."""
    return replace(
        terms, creator=creator, base_model=hashes.weights, model_config=hashes.config, tokenizer=hashes.tokenizer,
        start_adapter=adapter,
    )  # fmt: skip


@dataclass(frozen=True)
class Enrolment:
    """A member's way into a task: its hash-chain tip, and the raw transactions that stake (none without a chain)."""

    tip: bytes
    transactions: tuple[bytes, ...]


@dataclass(frozen=True)
class PhaseResult:
    """What a node hands back from one phase.

    Attributes:
        messages: signed by the members it hosts.
        seconds: wall time by kind of work (`train`, `encode`, `transfer`, `vote`, `aggregate`, `evaluate`).
        events: facts for the event log: kind and fields.
        losses: {member: held-out loss in nats a token} where the phase evaluates.
        opened: facts of the silos that it opened.
        signatures: {voter: signature of the report} in the signing phase.
        units: of work that the phase counted (steps, scores); 0 if it counted none.
    """

    messages: tuple[SignedMessage, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    events: tuple[tuple[str, Mapping[str, object]], ...] = ()
    losses: dict[int, float] = field(default_factory=dict)
    signatures: dict[int, bytes] = field(default_factory=dict)
    units: int = 0
    opened: tuple[SiloFacts, ...] = ()
