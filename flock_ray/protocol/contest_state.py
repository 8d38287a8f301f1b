"""Terms and state of a contest: those of a settled task, with rows to score on and submissions of earlier days.

One day is one settlement epoch. Validators are the members with slots; training nodes are members without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from flock_ray.protocol.ballot import MAX_SCORE
from flock_ray.protocol.contest_consensus import RULES
from flock_ray.protocol.contest_scores import SCORERS, Row, rows_digest
from flock_ray.protocol.encoding import Json, from_hex, to_hex
from flock_ray.protocol.parameters import Parameter, filled
from flock_ray.protocol.state import MemberState, TaskState, Terms, is_amount

CONTEST_SCHEMA = "flock_ray/contest_terms/1"
METRICS = ("text", "sql")
MAX_RUNGS = 3
FINAL = "final"

PARAMETERS: dict[str, Parameter] = {
    "max_submissions": Parameter(256, 1, 4_096),
    "max_rank": Parameter(64, 1, 4_096),
    "top_nodes": Parameter(8, 1, 4_096),
    "top_validators": Parameter(64, 1, 4_096),
    "pool_floor_bp": Parameter(0, 0, 5_000),
    "rank_ratio": Parameter(836_000, 1, 1_000_000),
    "node_exponent_bp": Parameter(10_000, 0, 40_000),
    "validator_exponent_bp": Parameter(10_000, 0, 40_000),
    "distance_rate": Parameter(20, 0, 1_000_000),
    "delegation_bp": Parameter(10_000, 0, 10_000),
    "end_share_bp": Parameter(2_000, 0, 10_000),
    "vested_bp": Parameter(1_000, 0, 10_000),
    "keep_one_in": Parameter(4, 2, 64),
    "copy_distance": Parameter(700_000, 0, 1_000_000),
    "copy_z_bp": Parameter(30_000, 0, 1_000_000),
    "audit_rows": Parameter(4, 1, 64),
    "audit_tolerance": Parameter(1_000, 0, MAX_SCORE),
    "absence_bp": Parameter(100, 0, 10_000),
}
"""A contest's integer parameters, in the terms as those of its mechanism.

max_submissions: scored a day, of more those with the largest stakes. max_rank: of an adapter. top_nodes (k1),
top_validators (k2): that are paid. pool_floor_bp (gamma), rank_ratio (q, millionths), node_exponent_bp and
validator_exponent_bp (alpha), distance_rate (lambda, per nat): of the rewards. delegation_bp (eps): weight of delegated
stake. end_share_bp: part of the pool that set B decides. vested_bp: part of a node's income that is held until the end.
keep_one_in: what a rung keeps. copy_distance: of sketches, millionths (sine of an angle), within which a submission is
a copy; copy_z_bp: standard errors by which a copy must be better to be paid. audit_rows: opened of each ballot;
audit_tolerance: micro-nats a token. absence_bp: part of the stake that an absent validator loses.
"""


class Window(StrEnum):
    """The phases of a day that have a length of their own; those of ballots recur in each rung."""

    COMMIT = "commit"
    ACKNOWLEDGE = "acknowledge"
    REVEAL = "reveal"
    GATE = "gate"
    SCORE = "score"
    OPEN = "open"
    AUDIT = "audit"


@dataclass(frozen=True)
class ContestTerms(Terms):
    """Terms of a contest; `rule` is its consensus rule, `band_z_bp` how sure an elimination must be.

    Attributes:
        metric: what rows are scored with.
        scorer: how a submission's score is made of its rows'.
        chunks: digest of each day's rows (set A), fixed before the first day.
        final_rows: digest of set B, opened on the last day; on chain as the task's target set.
        rung_rows: rows of each rung, ascending; the last takes all of the day's rows.
        min_node_stake: wei that a training node enters with.
        windows: seconds of each phase, by `Window`.
    """

    metric: str
    scorer: str
    chunks: tuple[bytes, ...]
    final_rows: bytes
    rung_rows: tuple[int, ...]
    min_node_stake: int
    windows: Mapping[str, int]

    def __post_init__(self) -> None:
        self.check_names(self.rule, self.metric, self.scorer)
        if len(self.chunks) != self.num_epochs or self.num_epochs < 1:
            raise ValueError(f"contest.days is {self.num_epochs}, but there are {len(self.chunks)} chunks of rows")
        self.check_rungs(self.rung_rows)
        if set(self.windows) != set(Window) or min(self.windows.values()) < 1:
            raise ValueError(f"contest.windows must give seconds for each of {', '.join(Window)}")
        if dict(self.mechanism_parameters) != filled(PARAMETERS, self.mechanism_parameters, "contest"):
            raise ValueError("contest parameters must all be given")

    @staticmethod
    def check_names(rule: str, metric: str, scorer: str) -> None:
        """Refuse a name that does not exist.

        Raises:
            ValueError: the text has those that do.
        """
        for name, value, known in (("rule", rule, RULES), ("metric", metric, METRICS), ("scorer", scorer, SCORERS)):
            if value not in known:
                raise ValueError(f"contest.{name} is {value!r}; it must be one of {', '.join(known)}")

    @staticmethod
    def check_rungs(rung_rows: Sequence[int]) -> None:
        """Refuse numbers of rows that make no race.

        Raises:
            ValueError: they are no ascending numbers, or too many.
        """
        rungs = list(rung_rows)
        if not 1 <= len(rungs) <= MAX_RUNGS or rungs != sorted(set(rungs)) or rungs[0] < 1:
            raise ValueError(f"contest.rung_rows is {rungs}; it must be one to {MAX_RUNGS} ascending numbers of rows")

    def json(self) -> dict[str, Json]:
        """The terms by name, hashes as text."""
        return super().json() | {
            "schema": CONTEST_SCHEMA,
            "chunks": [to_hex(chunk) for chunk in self.chunks],
            "rung_rows": list(self.rung_rows),
            "windows": {str(name): seconds for name, seconds in self.windows.items()},
        }

    @property
    def target_set(self) -> bytes:
        """Digest of set B."""
        return self.final_rows

    @property
    def node_stake(self) -> int:
        """What a training node enters with at least."""
        return self.min_node_stake

    @property
    def end_share(self) -> int:
        """Wei of the pool that are paid by the ranking on set B."""
        return self.pool * self.mechanism_parameters["end_share_bp"] // 10_000


@dataclass(frozen=True)
class Earlier:
    """A submission of an earlier day that passed the gate."""

    payload: bytes
    member: int
    day: int


@dataclass(frozen=True)
class ContestState(TaskState):
    """Everything that a day starts from; `epoch` is the day.

    Attributes:
        rows: the day's rows of set A, which may be opened when the blind window has closed.
        final_rows: rows of set B, on the last day.
        earlier: submissions of the days before, in the order of days and ids, each payload once.
        held: wei of nodes' vested income, of each in its member's notes too.
    """

    terms: ContestTerms
    rows: tuple[Row, ...] = ()
    final_rows: tuple[Row, ...] = ()
    earlier: tuple[Earlier, ...] = ()
    held: int = 0

    def opened(self, rows: Sequence[Row], final_rows: Sequence[Row] = ()) -> ContestState:
        """The state with the day's rows.

        Args:
            rows: of the day's chunk of set A.
            final_rows: set B, on the last day.

        Raises:
            ValueError: they are not those that the terms commit to.
        """
        if not rows or rows_digest(rows) != self.terms.chunks[self.epoch - 1]:
            raise ValueError(f"the rows of day {self.epoch} are not those that the contest's terms commit to")
        if self.last_day:
            if not final_rows or rows_digest(final_rows) != self.terms.final_rows:
                raise ValueError("the rows of set B are not those that the contest's terms commit to")
        elif final_rows:
            raise ValueError(f"set B is opened on day {self.terms.num_epochs}, this is day {self.epoch}")
        return replace(self, rows=tuple(rows), final_rows=tuple(final_rows))

    @property
    def last_day(self) -> bool:
        """Whether set B decides after this day's rungs."""
        return self.epoch == self.terms.num_epochs

    def parameter(self, name: str) -> int:
        """Value of one of PARAMETERS."""
        return self.terms.mechanism_parameters[name]

    def may_submit(self, member: int) -> bool:
        """Whether a member is a training node whose stake slashes have left at least half of the minimum."""
        node = self.members[member]
        return node.slots == 0 and node.stake > 0 and 2 * node.stake >= self.terms.min_node_stake

    def effective_stake(self, member: MemberState) -> int:
        """Own stake and the weighted stake of its delegators, wei."""
        return member.stake - member.delegated + member.delegated * self.parameter("delegation_bp") // 10_000

    @property
    def rungs(self) -> tuple[str, ...]:
        """Names of the day's rungs in their order; the last day ends with one on set B."""
        return rungs_of(self.terms, self.epoch)

    @property
    def schedule(self) -> dict[str, int]:
        """Seconds from the day's start until each phase ends: `commit`, …, `gate`, `rung_1_score`, `rung_1_open`, …."""
        return schedule_of(self.terms, self.epoch)

    def phase(self, elapsed: int) -> tuple[str, int | None]:
        """The phase that the contest is in, and the second of the day at which it ends.

        A name of `schedule`; `settling` when they are over; `finished` after the last day or with too few validators.
        """
        if self.finished:
            return "finished", None
        return next(((name, end) for name, end in self.schedule.items() if elapsed < end), ("settling", None))


def rungs_of(terms: ContestTerms, day: int) -> tuple[str, ...]:
    """Names of a day's rungs in their order; the last day ends with one on set B."""
    names = tuple(f"rung_{number + 1}" for number in range(len(terms.rung_rows)))
    return (*names, FINAL) if day == terms.num_epochs else names


def schedule_of(terms: ContestTerms, day: int) -> dict[str, int]:
    """Seconds from a day's start until each phase ends: `commit`, …, `gate`, `rung_1_score`, `rung_1_open`, …."""
    early = (Window.COMMIT, Window.ACKNOWLEDGE, Window.REVEAL, Window.GATE)
    phases = [(str(window), window) for window in early]
    late = (Window.SCORE, Window.OPEN, Window.AUDIT)
    phases += [(f"{rung}_{window}", window) for rung in rungs_of(terms, day) for window in late]
    ends, now = {}, 0
    for name, window in phases:
        now += terms.windows[window]
        ends[name] = now
    return ends


def read_rows(value: object) -> tuple[Row, ...]:
    """Rows from their JSON values.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(value, list) or not all(isinstance(row, list) and len(row) == 3 for row in value):
        raise ValueError("rows are lists [digest, tokens, bytes]")
    if not all(is_amount(count) for row in value for count in row[1:]):
        raise ValueError("a row has counts of tokens and bytes")
    return tuple(Row(from_hex(digest), tokens, size) for digest, tokens, size in value)


def contest_parameters(given: Mapping[str, int]) -> dict[str, int]:
    """Every parameter of a contest with its value.

    Raises:
        ValueError: there is no such parameter, or a value is out of its bounds.
    """
    return filled(PARAMETERS, given, "contest.parameters")
