"""Entries of a registry: one text each, and none that is out of its bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.market.licences import Licences, Strictness, licence_name, strictest, strictness
from flock_ray.market.models import Lora, Model, Price, base_offer
from flock_ray.protocol.encoding import canonical_json
from flock_ray.protocol.hashing import ZERO, sha256
from flock_ray.protocol.price_book import LeafTable, Split
from tests.market.entries import BASE, HOST, account, entry, lineage

HASHES = st.binary(min_size=32, max_size=32)
ACCOUNTS = st.binary(min_size=20, max_size=20)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,62}", fullmatch=True).filter(lambda name: name != "base")
LICENCES = st.sampled_from(
    ["mit", "apache-2.0", "gpl-3.0", "llama3.1", "cc-by-nc-4.0", "proprietary", "unknown", "Ours"]
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    rewards = draw(st.dictionaries(ACCOUNTS, st.integers(1, 2**128 - 1), max_size=5))
    members = draw(st.integers(0, 10_000)) if rewards else 0
    host = draw(st.integers(0, 10_000 - members))
    contest = draw(st.booleans())
    return entry(
        draw(st.binary(max_size=8)),
        name=draw(NAMES),
        base=draw(HASHES),
        lora=Lora(draw(st.integers(1, 64)), draw(st.integers(1, 64)), ("q_proj", "layers.0.mlp.up_proj")),
        context_length=draw(st.integers(1, 1 << 24)),
        template_date=draw(st.dates(date(1000, 1, 1))),
        lineage=lineage(
            kind="contest" if contest else "alliance",
            chain_id=draw(st.integers(0, 2**64 - 1)),
            epoch=draw(st.integers(1, 2**32 - 1)),
            parent=None if contest else draw(st.none() | HASHES),
            submitter=draw(ACCOUNTS) if contest else None,
        ),
        price=Price(draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 2**64 - 1))),
        split=Split(host, 10_000 - members - host, 0, members),
        licences=Licences(draw(LICENCES), draw(LICENCES), draw(LICENCES)),
        weights=LeafTable(draw(st.integers(0, 2**64 - 1)), account(6), sha256(b"task"), rewards) if rewards else None,
    )


@given(models())
def test_an_entry_is_read_back_as_it_was(model: Model) -> None:
    assert Model.from_bytes(model.to_bytes()) == model


@given(models())
def test_an_entry_is_offered_as_price_books_ask_for(model: Model) -> None:
    offer = model.offer
    assert (offer.model, offer.prompt, offer.output) == (model.adapter, model.price.prompt, model.price.output)
    assert offer.weights == (model.weights.hash if model.weights and model.split.members else ZERO)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("name",), "Coder"), (("name",), "base"), (("name",), "a" * 64), (("name",), 7), (("name",), ""),
        (("adapter",), "0x12"), (("adapter",), None), (("base",), sha256(b"base").hex()), (("context_length",), 0),
        (("context_length",), True), (("context_length",), 1 << 30), (("template_date",), "2026-13-01"),
        (("template_date",), "20260101"), (("lora", "rank"), 0), (("lora", "alpha"), 1 << 20),
        (("lora", "target_modules"), []), (("lora", "target_modules"), ["a b"]), (("lora", "target_modules"), "qk"),
        (("lineage", "kind"), "gossip"), (("lineage", "epoch"), 0), (("lineage", "record"), None),
        (("lineage", "task"), "0x"), (("lineage", "chain_id"), -1), (("price", "prompt"), -1),
        (("price", "output"), 1 << 64), (("price",), 3), (("split", "host"), 2_001), (("host",), "0x" + "00" * 32),
        (("licences", "data"), ""), (("licences", "data"), "two\nlines"), (("licences", "data"), "MIT"),
        (("licences",), None), (("weights", "rewards"), []), (("weights", "chain_id"), True),
        (("weights", "rewards"), [["0x" + "00" * 20, 0]]), (("weights",), None), (("schema",), "flock_ray/model/2"),
    ],
)  # fmt: skip
def test_what_is_no_entry_is_refused(place: tuple[str, ...], value: object) -> None:
    whole: dict[str, Any] = json.loads(entry(b"1").to_bytes())
    holder = whole
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = value
    with pytest.raises(ValueError):
        Model.from_bytes(canonical_json(whole))


def test_fields_that_nobody_knows_and_others_that_are_missing_are_refused() -> None:
    data = entry(b"1").to_bytes()
    for part in ((), ("lora",), ("lineage",), ("price",), ("split",), ("licences",), ("weights",)):
        for change in (lambda holder: holder.update(more=1), lambda holder: holder.pop(min(holder))):
            whole: dict[str, Any] = json.loads(data)
            holder = whole
            for name in part:
                holder = holder[name]
            change(holder)
            with pytest.raises(ValueError):
                Model.from_bytes(canonical_json(whole))
    for text in (b"", b"[]", b"null", b"{}", b"\xff", data + b" "):
        with pytest.raises(ValueError):
            Model.from_bytes(text)


def test_members_are_paid_only_by_what_they_earned() -> None:
    with pytest.raises(ValueError, match="no table of their rewards"):
        replace(entry(b"1"), weights=None)
    alone = replace(entry(b"1"), weights=None, split=Split(10_000, 0, 0, 0))
    assert alone.offer.weights == ZERO


def test_the_base_model_is_its_hosts() -> None:
    offer = base_offer(BASE, HOST, Price(1, 2))
    assert (offer.model, offer.split.host, offer.weights, offer.cost(10, 5)) == (BASE, 10_000, ZERO, 20)


# Licences


@pytest.mark.parametrize(
    ("parts", "binding"),
    [
        (("mit", "apache-2.0", "mit"), "apache-2.0"),
        (("apache-2.0", "gpl-3.0", "mit"), "gpl-3.0"),
        (("llama3.2", "agpl-3.0", "mit"), "llama3.2"),
        (("gemma", "cc-by-nc-4.0", "mit"), "cc-by-nc-4.0"),
        (("cc-by-nc-4.0", "proprietary", "mit"), "proprietary"),
        (("proprietary", "ask Ann", "mit"), "ask Ann"),
        (("unknown", "proprietary", "ask Ann"), "ask Ann"),
    ],
)
def test_the_strictest_licence_is_shown(parts: tuple[str, str, str], binding: str) -> None:
    for order in (parts, parts[::-1], (*parts[1:], parts[0])):
        assert Licences(*order).strictest == binding


def test_what_has_to_be_accepted_is_all_that_is_not_permissive() -> None:
    assert Licences("apache-2.0", "psf-2.0", "cc-by-4.0").to_accept == ()
    assert Licences("llama3.2", "gpl-3.0", "llama3.2").to_accept == ("llama3.2", "gpl-3.0")
    assert Licences("mit", "unknown", "proprietary").to_accept == ("unknown", "proprietary")


@given(st.lists(LICENCES, min_size=1))
def test_no_licence_is_stricter_than_the_strictest(licences: list[str]) -> None:
    assert strictness(strictest(licences)) == max(map(strictness, licences))


def test_known_licences_are_known_in_any_case_and_others_stay_as_they_are() -> None:
    assert licence_name(" Apache-2.0 ") == "apache-2.0"
    assert licence_name("Ours, see ann@example.org") == "Ours, see ann@example.org"
    assert strictness("Apache-3.0") is Strictness.closed
    for text in ("", "   ", "x" * 101, "a\nb"):
        with pytest.raises(ValueError):
            licence_name(text)
