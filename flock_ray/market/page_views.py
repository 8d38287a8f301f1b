"""What the pages tell of models: prices, use, lineage, members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flock_ray.chain.usage import account_text
from flock_ray.market.ledger import Ledger
from flock_ray.market.models import Lineage, Model
from flock_ray.market.snapshot import Snapshot
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.usage import divide

_A_MILLION = 10**6
_DEEPEST = 64  # models of a lineage that are shown


@dataclass(frozen=True)
class Use:
    """Answers of a model so far; cost in wei."""

    requests: int = 0
    tokens: int = 0
    cost: int = 0


@dataclass(frozen=True)
class ModelView:
    """A model; amounts in wei.

    Attributes:
        id, aliases: by which it is asked for.
        origin: where it was trained, in words.
        prompt, output: what a million tokens cost.
        licence: that binds most.
        requests, tokens, cost: see `Use`.
        paid_to_members: of the cost.
        members: (account, earned by training, part of the cost), by what they earned.
    """

    id: str
    aliases: tuple[str, ...]
    origin: str
    prompt: int
    output: int
    licence: str
    requests: int
    tokens: int
    cost: int
    paid_to_members: int
    members: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Step:
    """One model of a lineage.

    Attributes:
        title: of it.
        facts: (name, value).
        run: task id of its run, as the page of runs names it; empty for none.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    run: str = ""


def usage_of_models(ledger: Ledger) -> Mapping[str, Use]:
    """{model id: what it was used for}, of all accounts."""
    requests, tokens, cost = Counter[str](), Counter[str](), Counter[str]()
    for one in ledger.usage(None):
        requests[one.model_id] += one.requests
        tokens[one.model_id] += one.prompt_tokens + one.output_tokens
        cost[one.model_id] += one.cost
    return {name: Use(requests[name], tokens[name], cost[name]) for name in requests}


def model_view(model: Model, snapshot: Snapshot, used: Mapping[str, Use]) -> ModelView:
    """A model of a registry."""
    use = used.get(model.id, Use())
    rewards = model.weights.rewards if model.weights else {}
    parts = divide(use.cost, model.offer, rewards) if rewards else None
    shares = parts.members if parts else {}
    members = sorted(rewards, key=lambda account: (-rewards[account], account))
    return ModelView(
        id=model.id,
        aliases=tuple(sorted(alias for alias, adapter in snapshot.aliases.items() if adapter == model.adapter)),
        origin=f"{model.lineage.kind}, {unit(model.lineage)} {model.lineage.epoch}",
        prompt=model.price.prompt * _A_MILLION,
        output=model.price.output * _A_MILLION,
        licence=model.licences.strictest,
        requests=use.requests,
        tokens=use.tokens,
        cost=use.cost,
        paid_to_members=sum(shares.values()),
        members=tuple((account_text(one), rewards[one], shares.get(one, 0)) for one in members),
    )


def unit(lineage: Lineage) -> str:
    """What a run of this kind counts."""
    return "day" if lineage.kind == "contest" else "epoch"


def lineage_of(model: Model, snapshot: Snapshot) -> list[Step]:
    """A model and those that it was trained on from, down to the base model."""
    return list(_steps(model, {one.adapter: one for one in snapshot.published}))


def _steps(model: Model, published: Mapping[bytes, Model]) -> Iterator[Step]:
    one: Model | None = model
    for _ in range(_DEEPEST):
        assert one is not None
        yield _step(one)
        parent = one.lineage.parent
        if parent is None:
            break
        one = published.get(parent)
        if one is None:
            yield Step("An adapter that is not in this registry", (("adapter", to_hex(parent)),))
            break
    yield Step("The base model", (("weights", to_hex(model.base)), ("tokenizer", to_hex(model.tokenizer))))


def _step(model: Model) -> Step:
    lineage = model.lineage
    facts = [
        ("adapter", to_hex(model.adapter)),
        ("task", to_hex(lineage.task)),
        (f"signed record of {unit(lineage)} {lineage.epoch}", to_hex(lineage.record)),
        ("anchor of the run", to_hex(lineage.anchor)),
    ]
    if lineage.chain_id:
        facts.append(("settled on chain", f"{lineage.chain_id}, {account_text(lineage.settlement)}"))
        facts.append(("paid by", account_text(lineage.distributor)))
    if lineage.submitter:
        facts.append(("submitted by", account_text(lineage.submitter)))
    return Step(f"{model.id}, {lineage.kind}", tuple(facts), to_hex(lineage.task))


def model_facts(model: Model) -> list[tuple[str, str]]:
    """What a model is, by name."""
    split = model.split
    parts = {"host": split.host, "protocol": split.protocol, "owner": split.owner, "members": split.members}
    return [
        ("hash", to_hex(model.adapter)),
        ("base model", to_hex(model.base)),
        ("adapter", f"rank {model.lora.rank}, alpha {model.lora.alpha}, layers {', '.join(model.lora.target_modules)}"),
        ("context", f"{model.context_length:,} tokens"),
        ("template date", model.template_date.isoformat()),
        ("licences", ", ".join(f"{name} {value}" for name, value in model.licences.as_json().items())),
        ("of each cost", ", ".join(f"{name} {points / 100:g} %" for name, points in parts.items())),
        ("host", account_text(model.host)),
        ("owner", account_text(model.owner)),
    ]
