"""From a run to an entry of a registry: nothing is published whose run does not verify."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from flock_ray.errors import ModelError, RegistryError, VerificationError
from flock_ray.lora.serialization import MAX_ADAPTER_BYTES, Adapter, adapter_hash, rank_of
from flock_ray.market.licences import UNKNOWN, Licences, licence_name, strictest
from flock_ray.market.models import Lineage, Lora, Model, Price
from flock_ray.market.registry import Registry, require_accepted
from flock_ray.market.run_choice import Choice, choose, leaf_table
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.price_book import Split
from flock_ray.training.model import PACKAGED_LICENCE, ModelSpec, files_hash, locate
from flock_ray.training.model_files import context_length_of, licence_of, tokenizer_files
from flock_ray.verify.chain import SettledEpoch
from flock_ray.verify.contest_genesis import ContestGenesis
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.genesis import part_of
from flock_ray.verify.run import verify_run
from flock_ray.verify.verified import VerifiedRun

FREE = Price(0, 0)
SPLIT = Split(host=2_000, protocol=800, owner=2_200, members=5_000)
"""How a cost is divided if nobody says otherwise."""
SPLIT_WITHOUT_MEMBERS = Split(host=2_000, protocol=800, owner=7_200, members=0)
"""The same where no member earned anything."""
_DATA_LICENCES = {"stdlib_code": "psf-2.0"}
"""Of the data that comes with Python; nobody but their owners knows what others' silos hold."""


@dataclass(frozen=True)
class Listing:
    """How a model is to be listed; what is left out follows from its run.

    Attributes:
        name: of the model; empty: that of its base model.
        price: of its tokens.
        split: of what answers cost; None: `SPLIT`.
        owner: account that publishes it, 20 bytes; None: the creator of the run's task.
        host: account that serves it, 20 bytes; None: the owner.
        base_licence, data_licence, adapter_licence: empty: what the base model's folder says, that of the data if it
            is known, and the strictest of all that the adapter was made of.
        context_length: tokens that it takes; 0: as many as the base model.
        base: folder of the base model; None: where the run's configuration says.
    """

    name: str = ""
    price: Price = FREE
    split: Split | None = None
    owner: bytes | None = None
    host: bytes | None = None
    base_licence: str = ""
    data_licence: str = ""
    adapter_licence: str = ""
    context_length: int = 0
    base: Path | None = None


@dataclass(frozen=True)
class Trust:
    """What a run is compared with, beside itself: as `flock-ray verify` takes it.

    Attributes:
        anchor: hex SHA-256 of what the members agreed on; empty for none.
        rpc: url of a node that is trusted, for a run on an external chain; empty for none.
        store: url of the run's blobs, if not in its folder.
    """

    anchor: str = ""
    rpc: str = ""
    store: str = ""


def publish_run(
    registry: Path,
    run: Path,
    listing: Listing,
    *,
    epoch: int | None = None,
    place: int | None = None,
    accept: Iterable[str] = (),
    trust: Trust | None = None,
    emit: Callable[[str], None] = lambda line: None,
) -> Model:
    """Verify a run and publish one of its adapters.

    Args:
        registry: folder of the registry that takes it; made if it is not there.
        run: folder of a finished run, of an alliance or a contest.
        listing: how it is listed.
        epoch: whose adapter it is; None: the last accepted one.
        place: in a contest's ranking, from 1.
        accept: licences that are not permissive, by name.
        trust: what the run is compared with; None: nothing.
        emit: called with a line of text for each group of checks that passed.

    Returns:
        The entry.

    Raises:
        VerificationError: the run does not hold.
        RunDirectoryError: it is unfinished or pruned.
        RegistryError: it has no such adapter, or the registry does not take it.
        ModelError: its base model is not here, or another one is.
    """
    _require_room(registry)
    folder, verified = _verified(run, trust or Trust(), emit)
    return _publish(registry, folder, verified, choose(verified, epoch, place), listing, accept)


def _require_room(registry: Path) -> None:
    """Refuse a folder that can be no registry, before a run is verified; RegistryError."""
    if not Registry(registry).missing:
        Registry.open(registry)


def publish_epochs(
    registry: Path, run: Path, listing: Listing, accept: Iterable[str] = (), trust: Trust | None = None
) -> list[Model]:
    """Verify a run of an alliance once and publish the adapters of all accepted epochs; see `publish_run`.

    A run that was pruned (`store.keep=replay`) has fewer adapters than epochs: those that it has are published.

    Returns:
        The entries, by epoch.
    """
    _require_room(registry)
    folder, verified = _verified(run, trust or Trust(), lambda line: None)
    last = choose(verified)
    if last.submitter is not None:
        raise RegistryError(f"{run} is a contest's: publish its places one by one")
    epochs = [one.report.epoch for one in verified.settled if isinstance(one, SettledEpoch) and one.replay.accepted]
    choices = [choose(verified, epoch) for epoch in epochs]
    kept = [one for one in choices if one is choices[-1] or folder.blob(one.adapter, MAX_ADAPTER_BYTES) is not None]
    return [_publish(registry, folder, verified, one, listing, accept) for one in kept]


def _verified(run: Path, trust: Trust, emit: Callable[[str], None]) -> tuple[RunFolder, VerifiedRun]:
    folder = RunFolder(run, trust.store)
    try:
        return folder, verify_run(folder, trust.anchor, trust.rpc, emit)
    except VerificationError as error:
        raise VerificationError(f"{run} is not published, since it does not hold: {error}") from None


def _publish(
    registry: Path, folder: RunFolder, run: VerifiedRun, choice: Choice, listing: Listing, accept: Iterable[str]
) -> Model:
    published = () if Registry(registry).missing else Registry.open(registry).snapshot().published
    data = folder.blob(choice.adapter, MAX_ADAPTER_BYTES)
    if data is None:
        raise folder.lacking(f"the adapter {to_hex(choice.adapter)}, of epoch {choice.report.epoch},")
    _require_adapter(data, choice.adapter)
    model = _Entry(published, folder, run, choice, listing).model(rank_of(data))
    require_accepted(model, accept)
    return Registry.create(registry).publish(model, data, accept)


def _require_adapter(data: bytes, digest: bytes) -> None:
    """Check that bytes are those of an adapter as engines load it: canonical and finite.

    Raises:
        RegistryError: they are not.
    """
    try:
        factors: Adapter = safetensors.torch.load(data)
        if not factors or adapter_hash(factors) != digest:
            raise ValueError("it is not in canonical form")
        if not all(bool(torch.isfinite(factor).all()) for factor in factors.values()):
            raise ValueError("it has entries that are not finite")
    except (ValueError, safetensors.SafetensorError) as error:
        raise RegistryError(f"the adapter {to_hex(digest)} cannot be served: {error}") from None


class _Entry:
    """Makes the entry of a run's adapter."""

    def __init__(
        self, published: Sequence[Model], folder: RunFolder, run: VerifiedRun, choice: Choice, listing: Listing
    ) -> None:
        self._folder, self._run, self._choice, self._listing = folder, run, choice, listing
        self._config, self._terms = run.genesis.config, run.genesis.state.terms
        self._contest = isinstance(run.genesis, ContestGenesis)
        self._base, self._base_name = self._located()
        start = self._terms.start_adapter
        known = next((one for one in published if one.adapter == start), None)
        self._known_parent = known
        self._parent = start if known or self._config.get("start_from") else None

    def model(self, rank: int) -> Model:
        listing, genesis, choice = self._listing, self._run.genesis, self._choice
        weights = leaf_table(self._run)
        owner = listing.owner or genesis.creator
        try:
            return Model(
                name=listing.name or _slug(self._base_name),
                adapter=choice.adapter,
                base=self._terms.base_model,
                tokenizer=self._terms.tokenizer,
                lora=Lora(rank, self._alpha(rank), self._targets()),
                context_length=self._context_length(),
                template_date=self._template_date(),
                lineage=self._lineage(),
                price=listing.price,
                split=listing.split or (SPLIT if weights else SPLIT_WITHOUT_MEMBERS),
                host=listing.host or owner,
                owner=owner,
                licences=self._licences(),
                weights=weights,
            )
        except ValueError as error:
            raise RegistryError(f"{self._folder.path} is not published: {error}") from None

    def _lineage(self) -> Lineage:
        genesis, choice = self._run.genesis, self._choice
        return Lineage(
            kind="contest" if self._contest else "alliance",
            chain_id=genesis.domain.chain_id,
            settlement=genesis.domain.settlement,
            distributor=genesis.domain.distributor,
            task=genesis.state.scope.task,
            epoch=choice.report.epoch,
            record=choice.report.record_hash,
            anchor=genesis.anchor,
            parent=self._parent,
            submitter=choice.submitter,
        )

    def _located(self) -> tuple[Path, str]:
        """Folder and name of the base model, whose configuration and tokenizer are the run's."""
        model, given = part_of(self._config, "model"), self._listing.base
        source, path, revision = (str(model.get(name, "")) for name in ("source", "path", "revision"))
        spec = (
            ModelSpec("folder", str(given), "", "auto", "cpu")
            if given
            else ModelSpec(source, path, revision, "auto", "cpu")
        )
        try:
            folder, name = locate(spec, weights=False)
        except ModelError as error:
            raise ModelError(f"{error}; name the folder of the run's base model with --model DIR") from None
        for what, names, agreed in (
            ("config.json", ["config.json"], self._terms.model_config),
            ("tokenizer or chat template", tokenizer_files(folder), self._terms.tokenizer),
        ):
            if files_hash(folder, names) != agreed:
                raise ModelError(f"{name} is another base model than that of the run: its {what} differ; see --model")
        return folder, name

    def _alpha(self, rank: int) -> int:
        if self._contest:
            return rank  # submissions have alpha / r folded into B
        agreed = self._run.genesis.configuration
        if int(agreed["lora.rank"]) != rank:
            raise RegistryError(f"the adapter has rank {rank}, and the run's members agreed on {agreed['lora.rank']}")
        return int(agreed["lora.alpha"])

    def _targets(self) -> tuple[str, ...]:
        """Layers of all adapters of the run, as its verified adapter folder names them."""
        targets: list[str] = self._folder.json("adapter/adapter_config.json")["target_modules"]
        return tuple(sorted(targets))

    def _template_date(self) -> date:
        group = part_of(self._config, "contest" if self._contest else "data")
        return date.fromisoformat(str(group.get("template_date")))

    def _context_length(self) -> int:
        longest = context_length_of(self._base)
        asked = self._listing.context_length or longest
        if not asked:
            raise RegistryError(
                f"config.json of {self._base_name} names no context length: give it as --context TOKENS"
            )
        if longest and asked > longest:
            raise RegistryError(f"--context {asked} is more than the {longest} tokens that {self._base_name} takes")
        return asked

    def _licences(self) -> Licences:
        listing, parent = self._listing, self._known_parent
        packaged = not listing.base and part_of(self._config, "model").get("source") == "packaged"
        base = listing.base_licence or (PACKAGED_LICENCE if packaged else licence_of(self._base)) or UNKNOWN
        kind = str(part_of(self._config, "data").get("kind"))  # a contest has no such part
        data = listing.data_licence or _DATA_LICENCES.get(kind, UNKNOWN)
        made_of = [base, data, *(parent.licences.parts if parent else ())]
        adapter = listing.adapter_licence or strictest(map(licence_name, made_of))
        return Licences(*map(licence_name, (base, data, adapter)))


def _slug(name: str) -> str:
    """A name of a base model in the form of a model's name."""
    last = name.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9.]+", "-", last).strip("-.")[:63] or "model"
