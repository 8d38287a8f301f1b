"""Plain values that a node group of a contest starts from and answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flock_ray.cluster.rules import ContestRules
from flock_ray.cluster.spec import HostSpec, with_model
from flock_ray.protocol.contest_scores import rows_digest
from flock_ray.protocol.contest_state import ContestTerms
from flock_ray.training.contest_data import ContestData, ContestDataSpec
from flock_ray.training.engine import TrainSettings
from flock_ray.training.model import ModelHashes


@dataclass(frozen=True)
class ContestSpec(HostSpec):
    """What one node group of a contest hosts; its "silos" are members: validators first, then training nodes.

    Attributes:
        num_validators: members below this number are validators.
        data: where rows come from.
        settings: of the training nodes' steps.
        rank: of what they train; max_rank: of what is taken.
        target_modules: layers that adapters may have.
        submissions: folders of PEFT's, one a training node; empty to train.
        answer_tokens: longest generated answer (`sql`).
    """

    num_validators: int
    data: ContestDataSpec
    settings: TrainSettings
    rank: int
    max_rank: int
    target_modules: tuple[str, ...]
    submissions: tuple[str, ...]
    answer_tokens: int


@dataclass(frozen=True)
class ContestInfo:
    """What a node tells once it is loaded.

    Attributes:
        accounts: {member: its address}.
        model_name, hashes, model_dtype, num_parameters, model_folder, targets, notes: as of a `GroupInfo`.
        adapter: hash of the adapter that does nothing, which the contest starts from; it is in the store.
        data: the rows.
        num_training: rows that training nodes learn from.
    """

    accounts: Mapping[int, str]
    model_name: str
    hashes: ModelHashes
    model_dtype: str
    num_parameters: int
    adapter: bytes
    model_folder: str
    targets: tuple[str, ...]
    data: ContestData
    num_training: int
    notes: tuple[str, ...] = ()

    @property
    def rules(self) -> ContestRules:
        """With these rows."""
        return rules_of(self.data)


def rules_of(data: ContestData) -> ContestRules:
    """The rules of a contest with these rows."""
    chunks = tuple(tuple(one.row for one in chunk) for chunk in data.chunks)
    return ContestRules(chunks, tuple(one.row for one in data.final))


def contest_terms(
    terms: ContestTerms, creator: str, hashes: ModelHashes, adapter: bytes, data: ContestData
) -> ContestTerms:
    """The terms with the account that created the contest and the hashes of what was loaded."""
    rules = rules_of(data)
    filled = with_model(terms, creator, hashes, adapter)
    assert isinstance(filled, ContestTerms)
    return replace(filled, chunks=tuple(map(rows_digest, rules.chunks)), final_rows=rows_digest(rules.final))
