"""What telemetry shows, as plain values that the layers above fill in.

Losses are nats a token, scores and bands integer micro-nats a token, token amounts integer wei (10**18 a token),
times seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

PHASES = ("load", "train", "encode", "transfer", "vote", "aggregate", "settle", "evaluate", "overhead")
"""Keys of `EpochView.wall_seconds`, in the order in which they are shown."""

SAT_OUT = "sat out"
"""Status of a member, proposer or voter, that could not know what it had signed and so signed nothing."""


PROVEN_CHEATS = frozenset(("harmful", "malformed", "copied", "equivocated"))
"""What `MemberEpoch.status` says of a cheat; every other status may befall an honest proposer."""


@dataclass(frozen=True)
class MemberEpoch:
    """One member in one epoch.

    Attributes:
        role: `proposer`, `voter` or `observer`.
        loss_before: held-out loss of the global adapter that the epoch started from; None if it was not measured.
        loss_after: held-out loss of the global adapter that the epoch ended with.
        score: the consensus score of the member's proposal; None if it made none or none was scored.
        status: what became of the proposal; None if it was not the member's turn to make one. `accepted`; `rejected`
            (no clear gain), `unseen` (fewer than a quorum of seats had it), `refused` (its manifest does not fit what
            was committed to, or the task), `missing` (nothing was opened), `SAT_OUT`; and those of `PROVEN_CHEATS`:
            `harmful` (a clear loss), `malformed` (does not decode), `copied` (two proposers sent the same bytes),
            `equivocated` (two messages of one kind).
        bits_per_byte: `loss_after` in bits a byte of the held-out text, which compares across tokenizers.
    """

    index: int
    silo: str
    address: str
    adversary: bool
    role: str
    loss_before: float | None
    loss_after: float | None
    score: int | None
    status: str | None
    reward: int
    slashed: int
    bits_per_byte: float | None = None

    @property
    def cheated(self) -> bool:
        """Whether what became of the proposal proves a cheat."""
        return self.status in PROVEN_CHEATS


@dataclass(frozen=True)
class TrainingRate:
    """How fast an epoch's local training went.

    Attributes:
        tokens_per_second: labelled tokens of all members, over the slowest node's time.
        mfu: model FLOPs utilisation: counted operations over what the nodes' measured matrix products would have done
            in the same time.
    """

    tokens_per_second: float
    mfu: float


@dataclass(frozen=True)
class EpochView:
    """One epoch.

    Attributes:
        accepted: whether the candidate became the global adapter.
        candidate_score: the consensus score of the candidate (ballot B); None without ballots.
        band: the acceptance band of the candidate, around zero; None without ballots.
        factor_averaging_error: how far averaged factors are from the average of their products, relative to the average
            move of the products; None without accepted updates that were scored.
        settlement_tx: None until the epoch is settled.
        adapter_hash: of the global adapter that the epoch ended with.
        wall_seconds: by phase, see `PHASES`; `settle` runs beside the next epoch.
        training: None where nobody trained, or nobody noted how fast.
        steps: {member: its training loss before each local step, nats a token}.
        rates: learning rate of each local step.
        step: how many times the combined updates the candidate goes; None without one.
        fees: (member, wei charged, wei withheld from what it earned), by ascending member.
        voiceless: voters whose scores did not count.
    """

    epoch: int
    members: tuple[MemberEpoch, ...]
    accepted: bool
    candidate_score: int | None
    band: int | None
    factor_averaging_error: float | None
    settlement_tx: str | None
    gas_used: int | None
    adapter_hash: str
    wall_seconds: dict[str, float]
    training: TrainingRate | None = None
    steps: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    step: int | None = None
    fees: tuple[tuple[int, int, int], ...] = ()
    voiceless: tuple[int, ...] = ()

    @property
    def honest_loss_before(self) -> float | None:
        """Mean loss over the honest members' silos before the epoch; None if none was measured."""
        return self._honest_mean(lambda member: member.loss_before)

    @property
    def honest_loss_after(self) -> float | None:
        """Mean loss over the honest members' silos after the epoch; None if none was measured."""
        return self._honest_mean(lambda member: member.loss_after)

    def _honest_mean(self, loss: Callable[[MemberEpoch], float | None]) -> float | None:
        losses = [value for member in self.members if not member.adversary and (value := loss(member)) is not None]
        return fmean(losses) if losses else None


@dataclass(frozen=True)
class Answer:
    """What the model says to a prompt, with the adapter that the run started from and with its final one."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class MemberTotal:
    """One member over the whole run; a balance is wallet + stake + what it may claim.

    Attributes:
        num_tokens: size of its train part.
        rows: what became of the rows of its data, by name: `read`, `bad`, `dropped`, `cut`, `rewritten` and
            `target_tokens`.
        mean_score: mean over its scored proposals, micro-nats a token; None without one.
        stake: what is left of it at the end.
    """

    index: int
    silo: str
    address: str
    adversary: bool
    num_tokens: int
    times_proposer: int
    times_voter: int
    mean_score: float | None
    earned: int
    slashed: int
    stake: int
    balance_start: int
    balance_end: int
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def gain(self) -> int:
        """Balance at the end less balance at the start."""
        return self.balance_end - self.balance_start


def honest_with_more(members: Sequence[MemberTotal]) -> tuple[int, int]:
    """How many honest members end with more than they started with, and how many honest members there are."""
    honest = [member for member in members if not member.adversary]
    return sum(member.gain > 0 for member in honest), len(honest)
