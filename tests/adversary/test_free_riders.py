"""What members that want pay without work send."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from flock_ray.adversary.vectors import combined, norm, scaled
from flock_ray.lora.serialization import adapter_hash, canonical_bytes
from tests.adversary.worlds import A, Tensors, moved, relative, sent, vector

ADAPTERS = moved(vector(200), vector(201))
MOVEMENTS = [combined(later, earlier, -1.0) for earlier, later in pairwise(ADAPTERS)]
HISTORY = [{0: vector(20), 1: vector(21), 2: vector(22)}, {3: vector(33), 4: vector(34), 1: vector(31)}]


def world(**fields: object) -> Tensors:
    """After two accepted epochs."""
    return Tensors(adapters=ADAPTERS, history=HISTORY, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "which", "scale"),
    [("resubmit", 1, 1.0), ("resubmit@-0.3", 1, -0.3), ("resubmit@5", 1, 5.0), ("resubmit_older", 0, 1.0)],
)
def test_a_movement_is_sent_again(name: str, which: int, scale: float) -> None:
    ours, theirs = (sent(name, member, world(), epoch=3) for member in (1, 4))
    assert relative(ours, scaled(MOVEMENTS[which], scale)) == pytest.approx(0.05, rel=0.01)
    assert relative(ours, theirs) > 0.05  # no copy of an accomplice's


def test_a_rejected_epoch_moved_nothing() -> None:
    stood = Tensors(adapters=[*ADAPTERS, ADAPTERS[-1]], history=[*HISTORY, {0: vector(50)}])
    assert relative(sent("resubmit", 1, stood, epoch=4), MOVEMENTS[1]) == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize("name", ["resubmit", "resubmit_older", "best_public", "others_payload"])
def test_who_has_nothing_to_send_again_sends_little(name: str) -> None:
    ours, theirs = sent(name), sent(name, member=4)
    assert norm(ours) == pytest.approx(0.05 * norm(vector(1)), rel=0.05)
    assert canonical_bytes(ours) != canonical_bytes(theirs)


@pytest.mark.parametrize(("which", "factor"), [(1, -0.3), (1, 3.0), (0, 1.0), (0, -1.0)])
def test_the_public_move_that_is_best_on_its_own_data_is_sent(which: int, factor: float) -> None:
    best = combined(ADAPTERS[-1], MOVEMENTS[which], factor)
    ours = sent("best_public", 1, world(best=best), epoch=3)
    assert relative(ours, scaled(MOVEMENTS[which], factor)) == pytest.approx(0.05, rel=0.01)


def test_somebody_elses_update_is_at_least_two_epochs_old() -> None:
    ours, theirs = (sent("others_payload", member, world(), epoch=3) for member in (1, 4))
    old = [vector(20), vector(22)]  # of members 0 and 2 in epoch 1; 1 is an accomplice
    assert min(relative(ours, one) for one in old) == pytest.approx(0.05, rel=0.01)
    assert min(relative(theirs, one) for one in old) == pytest.approx(0.05, rel=0.01)


def test_a_copycat_sends_its_first_update_for_ever() -> None:
    assert torch.equal(sent("copy_noise")[A], vector(1)[A])  # trained once, honestly
    later = sent("copy_noise", 1, world(), epoch=3)
    assert relative(later, vector(21)) == pytest.approx(0.5, rel=0.01)


def test_one_step_is_what_so_few_steps_give() -> None:
    for name, steps in (("one_step", 1), ("one_step@3", 3)):
        asked = Tensors(honest={1: vector(7)})
        assert torch.equal(sent(name, world=asked)[A], vector(7)[A])
        assert asked.asked == [((1,), steps, None)]


def test_one_training_is_shared() -> None:
    """Members 1 and 4 propose: 1 trains."""
    given = Tensors(honest={1: vector(1)})
    assert torch.equal(sent("shared_training", 1, given)[A], vector(1)[A]) and not given.asked
    assert relative(sent("shared_training", 4, given), vector(1)) == pytest.approx(0.02, rel=0.05)


def test_a_stale_update_starts_where_the_alliance_was() -> None:
    for name, start in (("stale", ADAPTERS[1]), ("stale@2", ADAPTERS[0])):
        asked = world(honest={1: vector(7)})
        assert torch.equal(sent(name, 1, asked, epoch=3)[A], vector(7)[A])
        assert asked.asked == [((1,), None, adapter_hash(start))]
    assert torch.equal(sent("stale@3", 1, world(), epoch=3)[A], vector(1)[A])  # the task is not as old
