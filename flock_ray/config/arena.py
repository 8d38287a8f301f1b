"""The schema of a contest (`flock-ray arena`): its group `contest`, and those of an alliance's groups that it uses."""

from __future__ import annotations

from dataclasses import dataclass, field

from flock_ray.config.schema import (
    AdversaryConfig,
    AllianceConfig,
    ChainConfig,
    ClusterConfig,
    Config,
    LoraConfig,
    MechanismConfig,
    ModelConfig,
    StoreConfig,
)
from flock_ray.protocol.contest_state import PARAMETERS


@dataclass
class ContestConfig:
    """The contest: its days, who takes part, its rows, its money.

    Members have the numbers 0, 1, ...: first the validators, then the training nodes.

    Attributes:
        days: each is settled by itself.
        nodes: training nodes, one submission a day each. With `submissions` it is the number of its folders.
        validators: members with slots, who check and score; slots_per_validator: that each stakes for.
        hosts: logical hosts, the unit that keys and cohorts belong to; members are dealt to them in turn.
        num_voters: V, the seats of each committee; the quorum is q = floor(2V/3) + 1 seats.
        metric: `text` (loss of the targets) or `sql` (whether a generated query returns what the gold query does).
        scorer: how a score is made of row losses: `strict`, or `flock` for FLock's figure.
        rule: how seats agree on a score: `median`, `trimmed` or `mean`.
        rung_rows: rows of each rung, ascending; the last is also the number of rows of a day.
        final_rows: rows of set B, which is opened on the last day.
        data: file, folder or glob of conversations that rows are drawn from, or a list of them.
        train: the same, for what the training nodes learn from; no row of it is scored.
        max_row_tokens: longer rows are left out, of both.
        answer_tokens: longest generated answer (`sql`).
        submissions: folder with a folder of PEFT's for each training node, in natural order: nodes submit these every
            day, and nobody trains. Empty to train.
        template_date: the date that a chat template is told that asks for one, YYYY-MM-DD.
        open: whether others enter while the contest runs, with `flock-ray arena submit`: the windows of commitments and
            of payloads are waited for, by the clock. Needs an existing chain.
        pool: reward pool, in whole tokens; min_stake: of one slot; node_stake: that a training node enters with.
        max_unsettled: days that may be open on the chain while the next one goes on.
        slash_fraction: p, share of a member's stake that one slash takes, in basis points.
        assumed_malicious: share of slots that the capture check assumes dishonest.
        force: run even if the capture check fails.
        band_z: z of the band in which nobody is eliminated; band_floor, band_ceiling: its limits, micro-nats a token.
        spare_reveals: k, hash-chain elements beyond the number of days, for abandoned days.
        windows: seconds of each phase in the terms.
        parameters: integers by name, as `docs/arena.md` lists them.
    """

    days: int = 3
    nodes: int = 16
    validators: int = 5
    slots_per_validator: int = 2
    hosts: int = 2
    num_voters: int = 9
    metric: str = "text"
    scorer: str = "strict"
    rule: str = "median"
    rung_rows: list[int] = field(default_factory=lambda: [4, 8, 16])
    final_rows: int = 16
    data: list[str] = field(default_factory=list)
    train: list[str] = field(default_factory=list)
    max_row_tokens: int = 256
    answer_tokens: int = 64
    submissions: str = ""
    template_date: str = "2025-01-01"
    open: bool = False
    pool: int = 3_000
    min_stake: int = 3_000
    node_stake: int = 1_000
    max_unsettled: int = 1
    slash_fraction: int = 1_000
    assumed_malicious: float = 0.2
    force: bool = False
    band_z: float = 1.25
    band_floor: int = 100
    band_ceiling: int = 1_000_000
    spare_reveals: int = 3
    windows: dict[str, int] = field(
        default_factory=lambda: {
            "commit": 3_600, "acknowledge": 600, "reveal": 600, "gate": 1_800, "score": 3_600, "open": 600,
            "audit": 600,
        }
    )  # fmt: skip
    parameters: dict[str, int] = field(
        default_factory=lambda: {name: parameter.default for name, parameter in PARAMETERS.items()}
    )


@dataclass
class NodeTrainingConfig:
    """What a training node does before the first day: AdamW steps, of which each day takes an equal part.

    Attributes:
        steps: of the whole contest; the submission of day d is what `steps` * d / `days` of them gave.
        cohort_tokens: most tokens of a pass: of training nodes in one batch, and of adapters that are scored together.
    """

    steps: int = 6
    batch_size: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    cohort_tokens: int = 4_096
    deterministic: bool = True


@dataclass
class ArenaConfig:
    """One contest. `seed` names it: rows, adapters and, on an embedded chain, committees and keys derive from it."""

    seed: int = 10
    output_dir: str = ""
    resume: str = ""
    plan_only: bool = False
    traceback: bool = False
    model: ModelConfig = field(default_factory=lambda: ModelConfig(dtype="float32"))
    lora: LoraConfig = field(default_factory=LoraConfig)
    training: NodeTrainingConfig = field(default_factory=NodeTrainingConfig)
    contest: ContestConfig = field(default_factory=ContestConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    store: StoreConfig = field(default_factory=StoreConfig)


def settled_as(arena: ArenaConfig) -> Config:
    """What is settled on a chain, in an alliance's words: validators are its members, days its epochs."""
    contest = arena.contest
    return Config(
        seed=arena.seed,
        output_dir=arena.output_dir,
        resume=arena.resume,
        plan_only=arena.plan_only,
        traceback=arena.traceback,
        model=arena.model,
        lora=arena.lora,
        alliance=AllianceConfig(
            num_members=contest.validators,
            hosts=contest.hosts,
            slots_per_member=contest.slots_per_validator,
            num_voters=contest.num_voters,
            num_proposers=1,
            num_epochs=contest.days,
            pool=contest.pool,
            min_stake=contest.min_stake,
            max_unsettled=contest.max_unsettled,
            assumed_malicious=contest.assumed_malicious,
            force=contest.force,
            band_z=contest.band_z,
            band_floor=contest.band_floor,
            band_ceiling=contest.band_ceiling,
            spare_reveals=contest.spare_reveals,
        ),
        mechanism=MechanismConfig(slash_fraction=contest.slash_fraction),
        chain=arena.chain,
        cluster=arena.cluster,
        store=arena.store,
    )
