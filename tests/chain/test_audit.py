"""Attacks of an audit that go by the client, reversed: docs/audit.md names the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.chain import transactions
from flock_ray.chain.values import TaskStatus
from flock_ray.errors import ChainError
from flock_ray.protocol.seed import fixed_genesis
from tests.chain.world import RUN_SEED, TOKEN, World, spec

pytestmark = pytest.mark.chain


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(spec("eth_tester", num_members=6), tmp_path, num_members=6)
    made.deploy()
    yield made
    made.client.close()


def test_a_run_adopts_no_task_of_a_stranger(world: World) -> None:
    """Whoever creates a task of the same terms and seed first gets another id, and a member refuses to join it."""
    stranger, member = world.members[5], world.members[0]
    own = world.client.task_view(world.create(min_members=5)).terms
    terms, seed = replace(own, pool=0, epoch_deadline=1), fixed_genesis(RUN_SEED)
    world.do(stranger, lambda s, c: transactions.create_task(s, c, terms, seed))
    theirs = terms.task_id(stranger.address, seed)
    assert world.client.task_view(theirs).status is TaskStatus.JOINING
    assert theirs not in {own.task_id(world.creator.address, seed), terms.task_id(world.creator.address, seed)}

    expected, stake = own.digest(world.creator.address), own.min_stake
    world.do(world.creator, lambda s, c: transactions.transfer(s, c, [(member.address, stake)]))
    with pytest.raises(ChainError, match=rf"UnexpectedTerms\(termsDigest=0x\w+, expected=0x{expected.hex()}\)"):
        world.do(member, lambda s, c: transactions.join(s, c, theirs, stake, seed, expected))
    assert world.client.balances([member.address])[member.address] == 2 * stake  # its stake is free in the vault
    with pytest.raises(ChainError, match="TaskExists"):
        again = replace(own, pool=1_000 * TOKEN)
        world.do(world.creator, lambda s, c: transactions.transfer(s, c, [(world.creator.address, 1)]))
        world.do(world.creator, lambda s, c: transactions.create_task(s, c, again, seed))


def test_every_term_and_the_creator_are_in_the_id(world: World) -> None:
    terms, seed, creator = world.client.task_view(world.create()).terms, fixed_genesis(RUN_SEED), world.creator.address
    ids = {
        terms.task_id(creator, seed),
        terms.task_id(creator, fixed_genesis(6)),
        terms.task_id("0x" + "11" * 20, seed),
    }
    for name, value in vars(terms).items():
        other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else bytes(31) + b"\1"
        ids.add(replace(terms, **{name: other}).task_id(creator, seed))
    assert len(ids) == 3 + len(vars(terms))
