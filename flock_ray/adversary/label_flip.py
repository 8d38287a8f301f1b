"""Training on wrong tokens."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.adversary.behaviour import Behaviour, Context, Row


class LabelFlip(Behaviour):
    """Trains on rows whose predicted tokens are exchanged, the rarest-numbered for the highest-numbered.

    Tolpegin et al. 2020, "Data Poisoning Attacks Against Federated Learning Systems" (arXiv:2007.08432): a class is
    trained under another one's label. Of V tokens that its rows hold, ascending, number i becomes V - 1 - i.
    """

    def data(self, context: Context, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows with every token that carries loss exchanged."""
        held = sorted({token for ids, _ in rows for token in ids})
        flipped = dict(zip(held, reversed(held), strict=True))
        return [
            ([flipped[token] if carries else token for token, carries in zip(ids, loss, strict=True)], loss)
            for ids, loss in rows
        ]
