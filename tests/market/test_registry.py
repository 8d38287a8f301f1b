"""The folder of a registry: who reads it while others write, what is in it, and damage."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.errors import RegistryError, UnknownModelError
from flock_ray.market.licences import Licences
from flock_ray.market.models import Price, base_offer
from flock_ray.market.registry import Registry
from flock_ray.market.registry_index import Index, Offering
from flock_ray.protocol.price_book import PriceBook, Split
from tests.market.entries import BASE, GATEWAY, HOST, PROTOCOL, TOKENIZER, account, entry, lineage


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.create(tmp_path / "registry")


def test_what_is_published_is_served_to_all_who_read_the_folder(registry: Registry) -> None:
    other = Registry.open(registry.folder)
    before = other.version()
    assert other.models() == ()
    one, two = entry(b"1"), entry(b"2", name="writer")
    registry.publish(one, b"1")
    registry.publish(two, b"2")
    assert other.version() != before
    assert other.models() == tuple(sorted((one, two), key=lambda model: model.adapter))
    assert (other.adapter(one), other.adapter(two)) == (b"1", b"2")
    assert other.snapshot() is other.snapshot(), "nothing changed"


def test_a_model_is_found_by_id_hash_alias_or_a_name_that_only_one_has(registry: Registry) -> None:
    one, two, other = entry(b"1"), entry(b"2"), entry(b"3", name="writer")
    for model, data in ((one, b"1"), (two, b"2"), (other, b"3")):
        registry.publish(model, data)
    registry.set_alias("best", one)
    for text in (one.id, one.adapter.hex(), "0x" + one.adapter.hex().upper(), "best"):
        assert registry.resolve(text) == one
    assert registry.resolve("writer") == other
    with pytest.raises(UnknownModelError, match=r"2 models are named coder: ask for one of coder@\w{8}, coder@\w{8}"):
        registry.resolve("coder")
    with pytest.raises(UnknownModelError, match="no model 'poet' here; there are best, "):
        registry.resolve("poet")
    registry.set_alias("coder", two)
    assert registry.resolve("coder") == two, "an alias comes before names"
    assert registry.aliases() == {"best": one.adapter, "coder": two.adapter}


def test_an_alias_moves_and_hashes_do_not(registry: Registry) -> None:
    one, two = entry(b"1"), entry(b"2", lineage=lineage(parent=entry(b"1").adapter))
    registry.publish(one, b"1")
    registry.publish(two, b"2")
    assert registry.set_alias("best", one) is None
    snapshot = registry.snapshot()
    assert registry.set_alias("best", two) == one
    assert registry.resolve("best") == two
    assert snapshot.resolve("best") == one, "a snapshot stays what it was"
    assert registry.resolve(one.id) == one
    assert registry.snapshot().ancestors(two) == (one,)
    assert registry.snapshot().ancestors(one) == ()


def test_lineage_that_goes_round_ends(registry: Registry) -> None:
    one, two = entry(b"1").adapter, entry(b"2").adapter
    registry.publish(entry(b"1", lineage=lineage(parent=two)), b"1")
    model = registry.publish(entry(b"2", lineage=lineage(parent=one)), b"2")
    assert [other.adapter for other in registry.snapshot().ancestors(model)] == [one, two]


def test_a_retired_model_is_not_served_and_its_entry_stays(registry: Registry) -> None:
    one = registry.publish(entry(b"1"), b"1")
    registry.set_alias("best", one)
    assert registry.retire(one) == ("best",)
    assert registry.models() == () and registry.aliases() == {}
    with pytest.raises(UnknownModelError, match="was retired"):
        registry.resolve(one.id)
    assert registry.snapshot().find(one.id) == one
    for act in (lambda: registry.retire(one), lambda: registry.set_alias("best", one)):
        with pytest.raises(UnknownModelError, match="was retired; publish it again"):
            act()
    registry.publish(one, b"1")
    assert registry.models() == (one,)
    two = registry.publish(entry(b"2"), b"2")
    registry.retire(one)
    assert registry.resolve("coder") == two, "of a name, the one that is served"


def test_terms_do_not_change_and_prices_do(registry: Registry) -> None:
    one = registry.publish(entry(b"1"), b"1")
    registry.publish(one, b"1")
    with pytest.raises(RegistryError, match=r"published as coder@.* already, with other terms"):
        registry.publish(replace(one, context_length=1), b"1")
    offering = Offering(Price(5, 7), Split(5_000, 0, 0, 5_000), account(9))
    sold = registry.set_price(one, offering)
    assert registry.resolve("coder") == sold == replace(one, price=Price(5, 7), split=offering.split, host=account(9))
    assert registry.price_book(GATEWAY, PROTOCOL).offer(one.adapter).cost(10, 1) == 57
    assert registry.set_price(sold, Offering(one.price, one.split, one.host)) == one
    unpaid = registry.publish(entry(b"2", weights=None, split=Split(10_000, 0, 0, 0)), b"2")
    with pytest.raises(RegistryError, match="no table of their rewards"):
        registry.set_price(unpaid, offering)


def test_the_price_book_offers_what_is_served_and_the_base_model(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="makes no price book"):
        registry.price_book(GATEWAY, PROTOCOL)
    one, two = registry.publish(entry(b"1"), b"1"), registry.publish(entry(b"2"), b"2")
    book = registry.price_book(GATEWAY, PROTOCOL, [base_offer(BASE, HOST, Price(0, 1))])
    assert PriceBook.from_bytes(book.to_bytes()) == book
    assert {offer.model for offer in book.offers} == {one.adapter, two.adapter, BASE}
    assert one.weights
    assert registry.leaf_tables() == {one.weights.hash: one.weights}, "both were trained in one task"
    registry.retire(two)
    assert registry.price_book(GATEWAY, PROTOCOL).offers == (one.offer,)


def test_a_deployment_serves_one_base_model(registry: Registry) -> None:
    one = registry.publish(entry(b"1"), b"1")
    registry.snapshot().require_base(BASE, TOKENIZER)
    for wrong, what in (((TOKENIZER, TOKENIZER), "base model"), ((BASE, BASE), "tokenizer")):
        with pytest.raises(RegistryError, match=rf"the {what} of {one.id} is 0x\w+, this deployment's is 0x"):
            registry.snapshot().require_base(*wrong)


@pytest.mark.parametrize(
    ("licences", "accept", "told"),
    [
        (Licences("mit", "psf-2.0", "apache-2.0"), [], ""),
        (Licences("llama3.2", "mit", "mit"), [], "stands under 'llama3.2' .* accept it with --accept 'llama3.2'"),
        (Licences("llama3.2", "mit", "mit"), ["gemma", "Llama3.2"], ""),
        (Licences("llama3.2", "gpl-3.0", "mit"), ["llama3.2"], "--accept 'gpl-3.0'$"),
        (Licences("mit", "unknown", "mit"), [], "--accept 'unknown'$"),
        (Licences("mit", "Ours", "mit"), ["ours"], ""),
    ],
)
def test_a_licence_that_is_not_permissive_is_accepted_by_name(
    registry: Registry, licences: Licences, accept: list[str], told: str
) -> None:
    model = entry(b"1", licences=licences)
    if not told:
        assert registry.publish(model, b"1", accept) == model
        return
    with pytest.raises(RegistryError, match=told):
        registry.publish(model, b"1", accept)
    assert registry.models() == ()


def test_what_a_registry_does_not_take(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="other bytes than its hash says"):
        registry.publish(entry(b"1"), b"2")
    stranger = entry(b"9")
    for act in (lambda: registry.set_alias("best", stranger), lambda: registry.retire(stranger)):
        with pytest.raises(UnknownModelError, match="has no model coder@"):
            act()
    one = registry.publish(entry(b"1"), b"1")
    for alias in ("Best", "base", "a@b", "", "x" * 64):
        with pytest.raises(RegistryError, match="an alias has 1 to 63 of"):
            registry.set_alias(alias, one)
    assert registry.aliases() == {}


def test_two_adapters_do_not_share_an_id(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.publish(entry(b"1"), b"1")
    monkeypatch.setattr("flock_ray.market.models.Model.id", property(lambda model: f"{model.name}@00000000"))
    with pytest.raises(RegistryError, match="is that of another adapter: take another --name"):
        registry.publish(entry(b"2"), b"2")
    registry.publish(entry(b"2", name="writer"), b"2")


# Damage


def test_bytes_that_changed_are_not_served(registry: Registry) -> None:
    one = registry.publish(entry(b"1"), b"1")
    (path,) = (registry.folder / "adapters").iterdir()
    path.write_bytes(b"2")
    for read in (registry.adapter, registry.source):
        with pytest.raises(RegistryError, match=r"other bytes than its name says: it is not served; publish coder@"):
            read(one)
    registry.publish(one, b"1")
    assert registry.adapter(one) == b"1"
    path.unlink()
    with pytest.raises(RegistryError, match="cannot be read: No such file"):
        registry.adapter(one)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("registry.json", b"", "registry.json is damaged"),
        ("registry.json", b"{}", "registry.json is damaged: .*schema"),
        ("registry.json", b'{"schema": 1}', "not in canonical form"),
        ("registry.json", None, "is no registry: registry.json is missing"),
        ("entries", b"{", "is damaged"),
        ("entries", None, "cannot be read"),
        ("entries", entry(b"2").to_bytes(), "is the entry of another adapter"),
    ],
)
def test_damage_is_told_in_one_line(registry: Registry, name: str, damage: bytes | None, told: str) -> None:
    registry.publish(entry(b"1"), b"1")
    path = registry.folder / name
    path = next(path.iterdir()) if path.is_dir() else path
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(RegistryError, match=told) as refused:
        Registry.open(registry.folder)
    assert str(path.name if name == "entries" else registry.folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_pipe_and_a_huge_file_are_no_entries(registry: Registry) -> None:
    registry.publish(entry(b"1"), b"1")
    path = next((registry.folder / "entries").iterdir())
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RegistryError, match="is no file of at most"):
        Registry.open(registry.folder)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RegistryError, match="is no file of at most"):
        Registry.open(registry.folder)


def test_an_index_that_contradicts_itself_is_refused(registry: Registry) -> None:
    one = registry.publish(entry(b"1"), b"1")
    path = registry.folder / "registry.json"
    whole = json.loads(path.read_bytes())
    for change in (
        {"retired": ["0x" + "11" * 32]}, {"models": whole["models"] * 2}, {"models": whole["models"][0]},
        {"aliases": [["best", "0x" + "11" * 32]]}, {"aliases": [["base", whole["models"][0]]]}, {"aliases": [["a"]]},
        {"retired": whole["models"], "aliases": [["best", whole["models"][0]]]}, {"more": 1}, {"aliases": 3},
        {"offerings": [["0x" + one.adapter.hex(), 1, -1, [10_000, 0, 0, 0], "0x" + "00" * 20]]},
    ):  # fmt: skip
        path.write_text(json.dumps(whole | change, separators=(",", ":"), sort_keys=True))
        with pytest.raises(RegistryError, match=r"registry\.json is damaged"):
            Registry.open(registry.folder)


def test_what_a_killed_writer_left_is_not_in_the_registry(registry: Registry, tmp_path: Path) -> None:
    full = Registry.create(tmp_path / "full")
    full.publish(entry(b"1"), b"1")
    for name in ("entries", "adapters"):
        shutil.copytree(full.folder / name, registry.folder / name, dirs_exist_ok=True)
    (registry.folder / "entries" / ".half.part").write_bytes(b"{")
    assert Registry.open(registry.folder).models() == ()
    registry.publish(entry(b"1"), b"1")
    assert registry.models() == (entry(b"1"),)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RegistryError, match=r"not empty: it holds thesis\.txt; name a new folder"):
        Registry.create(tmp_path)
    with pytest.raises(RegistryError, match=r"is no registry: registry\.json is missing"):
        Registry.open(tmp_path)
    with pytest.raises(RegistryError, match="is no folder of a registry"):
        Registry.create(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_registry_that_cannot_be_written_says_so(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flock_ray.market.registry.os.replace", full)
    before = registry.version()
    with pytest.raises(RegistryError, match="cannot be written: No space left on device"):
        registry.publish(entry(b"1"), b"1")
    assert registry.version() == before and registry.models() == ()


def _publish_many(folder: Path, numbers: range) -> None:
    registry = Registry.create(folder)
    for number in numbers:
        registry.publish(entry(bytes([number])), bytes([number]))
        registry.set_alias(f"a{number}", entry(bytes([number])))


def test_writers_of_several_processes_lose_nothing(tmp_path: Path) -> None:
    context, folder = multiprocessing.get_context("fork"), tmp_path / "registry"
    writers = [context.Process(target=_publish_many, args=(folder, range(10 * k, 10 * k + 10))) for k in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    registry = Registry.open(folder)
    assert {model.adapter for model in registry.models()} == {entry(bytes([number])).adapter for number in range(30)}
    assert len(registry.aliases()) == 30


def test_an_index_is_read_back_as_it_was() -> None:
    one, two = sorted((entry(b"1").adapter, entry(b"2").adapter))
    offering = Offering(Price(1, 2), Split(10_000, 0, 0, 0), HOST)
    index = Index((one, two), frozenset((one,)), {"best": two}, {two: offering})
    assert Index.from_bytes(index.to_bytes()) == index
