"""What the seats of an epoch say of an adapter, and what becomes of proposals and candidates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flock_ray.protocol.ballot import Score
from flock_ray.protocol.capture import quantile_index
from flock_ray.protocol.encoding import Json, to_hex
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.state import Terms


def quantile(values: Sequence[int], quantile_bp: int) -> int:
    """The kappa-quantile of integers; kappa = 1/2 gives the lower median.

    Args:
        values: at least one.
        quantile_bp: kappa in basis points.
    """
    return sorted(values)[quantile_index(len(values), quantile_bp)]


def band(standard_errors: Sequence[int], terms: Terms) -> int:
    """Acceptance band, micro-nats a token: z times the lower median of the standard errors, floor to ceiling."""
    raw = terms.band_z_bp * quantile(standard_errors, 5_000) // 10_000
    return max(terms.band_floor, min(terms.band_ceiling, raw))


@dataclass(frozen=True)
class Panel:
    """Who scores in an epoch.

    Attributes:
        roles: of the epoch.
        terms: of the task.
        voiceless: voters whose scores do not count.
    """

    roles: Roles
    terms: Terms
    voiceless: frozenset[int] = frozenset()

    def seats(self, voters: Collection[int]) -> list[int]:
        """The voter of each seat that counts, of those held by `voters`; all of these where none counts."""
        held = [voter for voter in self.roles.voters if voter in voters]
        return [voter for voter in held if voter not in self.voiceless] or held


@dataclass(frozen=True)
class Consensus:
    """The seats' joint score of one adapter.

    Attributes:
        score: kappa-quantile of the gains over seats, micro-nats a token.
        band: acceptance band.
        gains: {voter: the gain it reported}, micro-nats a token.
    """

    score: int
    band: int
    gains: Mapping[int, int]

    def json(self) -> dict[str, Json]:
        """The consensus in a record."""
        gains: Json = [[member, gain] for member, gain in self.gains.items()]
        return {"score": self.score, "band": self.band, "gains": gains}


def consensus(scores: Mapping[int, Score], roles: Roles, terms: Terms) -> Consensus:
    """Consensus of {voter: score}; a voter with two seats counts twice."""
    seats = [scores[member] for member in roles.voters if member in scores]
    score = quantile([seat.gain for seat in seats], terms.quantile_bp)
    return Consensus(
        score,
        band([seat.standard_error for seat in seats], terms),
        {member: own.gain for member, own in sorted(scores.items())},
    )


_UNSCORED: dict[str, Json] = {"score": None, "band": None, "gains": None}


@dataclass(frozen=True)
class StepVerdict:
    """A candidate at one step: its hash, and the seats' score of it, None where the mechanism asks for none."""

    step: int
    candidate: bytes
    score: int | None

    def json(self) -> Json:
        """`[step, hash, score]`."""
        return [self.step, to_hex(self.candidate), self.score]


@dataclass(frozen=True)
class ProposalVerdict:
    """What became of one proposal.

    Attributes:
        status: `accepted`, `rejected`, `harmful`, `malformed`, `copied`, `unseen` (fewer than q seats had it),
            `refused` (its manifest does not fit its commitment or the chain) or `missing`.
        payload: SHA-256 of the encoded update, None when nothing was opened.
        consensus: None where it was not scored.
        entering: of what enters the candidate, where the mechanism has that scored too.
    """

    member: int
    status: str
    payload: bytes | None = None
    consensus: Consensus | None = None
    entering: Consensus | None = None

    def json(self) -> Json:
        """The verdict in a record."""
        return {
            "member": self.member,
            "status": self.status,
            "payload": to_hex(self.payload) if self.payload else None,
            **(self.consensus.json() if self.consensus else _UNSCORED),
            "entering": self.entering.json() if self.entering else None,
        }


@dataclass(frozen=True)
class CandidateVerdict:
    """The seats' verdict on the candidates.

    Attributes:
        candidate: the hash that at least q seats computed, at the step that is taken; None without accepted updates,
            agreement or enough scores.
        weights: (proposer, integer weight) of the accepted updates, as the same seats state them; 0: not in it.
        consensus: on the candidate; None without one or where the mechanism asks for no score.
        step: the one that is taken; None without a candidate.
        steps: the candidates at all steps.
    """

    candidate: bytes | None
    weights: tuple[tuple[int, int], ...]
    consensus: Consensus | None
    step: int | None = None
    steps: tuple[StepVerdict, ...] = ()

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Of the candidates at all steps."""
        return tuple(one.candidate for one in self.steps)

    def json(self) -> Json:
        """The verdict in a record."""
        return {
            "adapter": to_hex(self.candidate) if self.candidate else None,
            "weights": [list(pair) for pair in self.weights],
            **(self.consensus.json() if self.consensus else _UNSCORED),
            "step": self.step,
            "steps": [step.json() for step in self.steps],
        }
