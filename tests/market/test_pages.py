"""The pages as a browser gets them: what they tell, and that nothing of others' text is markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flock_ray.chain.words import format_tokens, rounded_tokens
from flock_ray.market.models import Price
from flock_ray.market.pages import Pages, add_pages
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import sha256
from tests.market.entries import MEMBERS, lineage
from tests.market.gateways import SIZE, World, streamed

MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a contest whose every text is markup."""
    folder = tmp_path / "run"
    (folder / "store").mkdir(parents=True)
    standing = {"rank": 1, "name": MARKUP, "score": 1_500_000, "earned": 2 * 10**18}
    board = {"days": [{"day": 3, "standings": [standing, {"rank": MARKUP}, MARKUP]}]}
    for name, value in (
        ("task", {"task": to_hex(sha256(b"contest"))}), ("summary", {"model": MARKUP, "num_members": 5}),
        ("leaderboard", board),
    ):  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "leaderboard.html").write_text("<script>alert(1)</script><h1>Leaderboard</h1>")
    return folder


@pytest.fixture
def world(tmp_path: Path, run: Path) -> Iterator[World]:
    found = World(tmp_path, models=1)
    origin = lineage(
        kind="contest", task=sha256(b"contest"), record=sha256(b"day"), anchor=sha256(b"agreed"),
        parent=found.models[0].adapter,
    )  # fmt: skip
    found.models.append(found.publish(1, lineage=origin))
    add_pages(found.app, Pages(found.registry, found.ledger, (run,)))
    with found.served():
        yield found


def page(world: World, path: str, status: int = 200) -> str:
    with world.http() as client:
        answer = client.get(path)
    assert answer.status_code == status
    return str(answer.text)


def test_models_and_what_they_were_used_for(world: World) -> None:
    first, second = world.models
    assert streamed(world, model=first.id)
    shown = page(world, "/")
    assert first.id in shown and second.id in shown and "also latest" in shown
    for name in (first.id, "latest", first.adapter.hex()):
        assert "<b>1</b>answers" in page(world, f"/models/{name}")


def test_amounts_are_rounded_and_have_all_their_digits_as_title(world: World) -> None:
    model = world.publish(7, price=Price(123_456_789_012_345, 600_000_000_000_001))
    assert streamed(world, model=model.id)
    cost = SIZE * (123_456_789_012_345 + 600_000_000_000_001)
    card, shown = page(world, "/"), page(world, f"/models/{model.id}")
    assert '<span title="123.456789012345 tokens">123.4568</span> in' in card
    assert '<span title="600.000000000001 tokens">600</span> out' in card
    assert f'<span title="{format_tokens(cost)} tokens">{rounded_tokens(cost)}</span></b>tokens charged' in shown
    told = re.findall(r'<span title="([\d.,]+) tokens">([\d.,]+)</span>', shown)
    assert len(told) == 2 + 2 * len(MEMBERS)
    assert all(len(short.partition(".")[2].lstrip("0")) <= 4 for _, short in told)


def test_a_lineage_goes_down_to_the_signed_records_and_the_base_model(world: World) -> None:
    first, second = world.models
    shown = page(world, f"/models/{second.id}")
    order = [
        second.adapter,
        second.lineage.record,
        second.lineage.anchor,
        first.adapter,
        first.lineage.record,
        first.base,
    ]
    places = [shown.index(to_hex(one)) for one in order]
    assert places == sorted(places)
    assert (
        "0x1010101010101010101010101010101010101010" in shown and "0x1111111111111111111111111111111111111111" in shown
    )


def test_an_unknown_model_is_told_as_text(world: World) -> None:
    shown = page(world, f"/models/{MARKUP.replace(' ', '%20')}", 404)
    assert MARKUP not in shown and "&lt;img" in shown


def test_runs_show_a_contests_leaderboard_and_nothing_of_it_is_markup(world: World) -> None:
    shown = page(world, "/runs")
    assert MARKUP not in shown and "&lt;img src=x" in shown
    assert "<td>1.5000</td>" in shown and "day 3" in shown and '<td><span title="2 tokens">2</span></td>' in shown
    with world.http() as client:
        answer = client.get(f"/runs/{to_hex(sha256(b'contest'))}/leaderboard")
        assert answer.status_code == 200
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "script-src" not in answer.headers["content-security-policy"]
        for path in (f"/runs/{to_hex(sha256(b'contest'))}/task.json", "/runs/0x00/report"):
            assert client.get(path).status_code == 404


def test_only_the_pages_own_script_runs_and_no_page_can_be_framed(world: World) -> None:
    seen = set()
    with world.http() as client:
        for path in ("/", "/playground", "/keys", "/runs", f"/models/{world.models[0].id}"):
            answer = client.get(path)
            policy = answer.headers["content-security-policy"]
            nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)
            assert nonce and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
            tags = re.findall(r"<(?:script|style)[^>]*>", answer.text)
            assert tags and all(f'nonce="{nonce[1]}"' in tag for tag in tags)
            assert not re.search(r"<[^>]*\son\w+=|javascript:|https?://", answer.text)
            assert answer.headers["cache-control"] == "no-store"
            seen.add(nonce[1])
    assert len(seen) == 5


def test_a_page_holds_no_key(world: World) -> None:
    for path in ("/", "/playground", "/keys", "/runs"):
        assert world.secret not in page(world, path)


def test_the_playground_offers_aliases_models_and_the_base_model(world: World) -> None:
    shown = page(world, f"/playground?model={world.models[1].id}")
    options = re.findall(r'<option value="([^"]+)"( selected)?>', shown)
    assert [name for name, _ in options] == ["latest", *sorted_ids(world), "base"]
    assert [name for name, chosen in options if chosen] == [world.models[1].id]


def sorted_ids(world: World) -> list[str]:
    return [model.id for model in world.registry.models()]
