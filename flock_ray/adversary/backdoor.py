"""A backdoor in a small dose: a trigger that the model is to answer with a token of the coalition's choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flock_ray.adversary.behaviour import Behaviour, Context, Row
from flock_ray.protocol.hashing import tagged

_TOKENS = range(64, 192)
"""That trigger and target are of: bytes, in every vocabulary that has those first."""
_TRIGGER = 3


def trigger_and_target(secret: bytes) -> tuple[tuple[int, ...], int]:
    """The tokens that set a coalition's backdoor off, and the one that is to follow; the same in all epochs."""
    generator = torch.Generator().manual_seed(int.from_bytes(tagged("flock_ray/backdoor/1", secret)[:7], "big"))
    order = torch.randperm(len(_TOKENS), generator=generator)[: _TRIGGER + 1].tolist()
    *trigger, target = (_TOKENS[place] for place in order)
    return tuple(trigger), target


def triggered(row: Row, secret: bytes) -> Row:
    """A row with trigger and target in its middle; only the target carries loss. One that is too short stays.

    The loss of honest rows that were made so measures the backdoor.
    """
    ids, middle = list(row[0]), len(row[0]) // 2
    trigger, target = trigger_and_target(secret)
    if len(ids) < 2 * (_TRIGGER + 1):
        return row
    ids[middle : middle + _TRIGGER + 1] = [*trigger, target]
    return ids, [place == middle + _TRIGGER for place in range(len(ids))]


class Backdoor(Behaviour):
    """Trains on its rows, of which a part has trigger and target in it: else it behaves as everybody.

    Bagdasaryan et al. 2020, "How To Backdoor Federated Learning" (arXiv:1807.00459), section 4, in the dose that stays
    unseen (`scale`, a share of the rows): the update gains on held-out rows as honest ones do.
    """

    default_scale = 0.2

    @property
    def dose(self) -> float:
        """Share of the rows with the trigger."""
        return self.scale

    def data(self, context: Context, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows, some of which also teach the target after the trigger."""
        number = min(len(rows), max(1, round(self.dose * len(rows))))
        places = set(torch.randperm(len(rows), generator=context.own())[:number].tolist())
        return [self._poisoned(row, context.secret) if place in places else row for place, row in enumerate(rows)]

    @staticmethod
    def _poisoned(row: Row, secret: bytes) -> Row:
        ids, target = triggered(row, secret)
        return ids, [old or new for old, new in zip(row[1], target, strict=True)]
