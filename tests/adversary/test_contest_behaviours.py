"""How members of a contest cheat: each behaviour does what its name says, and the same again."""

from __future__ import annotations

from statistics import median

import pytest
import torch

from flock_ray.adversary.contest import (
    CONTEST_BEHAVIOURS,
    ContestBehaviour,
    ContestContext,
    get_contest_behaviour,
)
from flock_ray.errors import ConfigError
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, canonical_bytes
from flock_ray.lora.sketch import Sketcher, distance
from flock_ray.protocol.contest_race import Rung
from flock_ray.protocol.contest_scores import Row
from tests.protocol.contest_players import new_contest

STATE = new_contest()


def adapter(seed: int) -> Adapter:
    stream = torch.Generator().manual_seed(seed)
    return {
        f"layer{LORA_A}": torch.randn(4, 12, generator=stream),
        f"layer{LORA_B}": torch.randn(9, 4, generator=stream),
    }


def product(one: Adapter) -> torch.Tensor:
    return one[f"layer{LORA_B}"].double() @ one[f"layer{LORA_A}"].double()


def rung(*tokens: int) -> Rung:
    rows = tuple(Row(bytes([place]) * 32, count, count) for place, count in enumerate(tokens))
    return Rung("rung_1", bytes(32), (b"a" * 32, b"b" * 32, b"c" * 32), rows, tuple(range(len(rows))), False)


CONTEXT = ContestContext(STATE, 3, adapter(1))


def submitted(name: str, scale: float = 0.1, context: ContestContext = CONTEXT) -> Adapter:
    own = adapter(2)
    before = canonical_bytes(own)
    result = get_contest_behaviour(name)(scale).submission(context, own)
    assert canonical_bytes(own) == before
    return result


@pytest.mark.parametrize("name", sorted(CONTEST_BEHAVIOURS))
def test_a_behaviour_gives_the_same_again_and_needs_a_leader_to_copy(name: str) -> None:
    assert canonical_bytes(submitted(name)) == canonical_bytes(submitted(name))
    if name != "not_finite":
        assert canonical_bytes(submitted(name, context=ContestContext(STATE, 3, None))) == canonical_bytes(adapter(2))


def test_an_entry_is_no_number() -> None:
    entries = torch.cat([factor.flatten() for factor in submitted("not_finite").values()])
    assert int(entries.isnan().sum()) == 1


def test_copies_have_the_leaders_products() -> None:
    leader = adapter(1)
    assert canonical_bytes(submitted("byte_copy")) == canonical_bytes(leader)
    gauge = submitted("gauge_copy")
    assert (gauge[f"layer{LORA_A}"] - leader[f"layer{LORA_A}"]).abs().max() > 0.01
    torch.testing.assert_close(product(gauge), product(leader), atol=1e-4, rtol=0)
    noise = submitted("leader_noise", scale=0.1)[f"layer{LORA_B}"] - leader[f"layer{LORA_B}"]
    assert float(noise.norm() / leader[f"layer{LORA_B}"].norm()) == pytest.approx(0.1, rel=1e-3)


def test_noise_is_just_as_large_as_hides_a_copy() -> None:
    """Of the probes' median over seeds: by the sketch a little below or above the limit at the edge of it."""
    shapes = {f"layer{LORA_A}": (4, 12), f"layer{LORA_B}": (9, 4)}
    leader, limit = adapter(1), STATE.parameter("copy_distance")

    def apart(scale: float) -> float:
        found = submitted("hidden_noise", scale)
        sketchers = [Sketcher(shapes, bytes([seed]) * 32) for seed in range(15)]
        return median(distance(one.sketch(found), one.sketch(leader)) for one in sketchers)

    assert apart(0.7) < limit < apart(1.6)


def test_a_mixture_has_so_much_of_its_owns_products() -> None:
    leader, own = adapter(1), adapter(2)
    for share, expected in ((0.0, product(leader)), (1.0, product(own)), (7.0, product(own))):
        torch.testing.assert_close(product(submitted("leader_mixture", share)), expected, atol=1e-3, rtol=0)
    whole = 0.7 * product(leader) + 0.3 * product(own)  # of rank 8: the closest of rank 4 leaves the smaller values out
    left_out = torch.linalg.svdvals(whole)[4:].norm()
    mixed = submitted("leader_mixture", 0.3)
    assert float((product(mixed) - whole).norm()) == pytest.approx(float(left_out), rel=1e-3)
    assert mixed[f"layer{LORA_A}"].shape == leader[f"layer{LORA_A}"].shape


def test_a_liar_turns_the_order_around_and_a_lazy_one_guesses() -> None:
    columns = [(20, 200), (40, 100), None]
    asked = rung(10, 10)
    assert ContestBehaviour(1.0).ballot(CONTEXT, asked, columns) == columns
    assert get_contest_behaviour("lying_validator")(1.0).ballot(CONTEXT, asked, columns) == [(40, 100), (20, 200), None]
    long = rung(*[10] * 20)
    seen = get_contest_behaviour("lazy_validator")(1.0).ballot(CONTEXT, long, [tuple(range(0, 200, 10))])
    assert seen == [(0, 10, *[0] * 18)]
    assert get_contest_behaviour("lazy_validator")(1.0).ballot(CONTEXT, asked, [(30, 999), None]) == [(30, 30), None]


def test_an_unknown_behaviour_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"adversary.members.7 is 'sign_flip'; in a contest it must be one of byte_copy"
    ):
        get_contest_behaviour("sign_flip", "adversary.members.7")
