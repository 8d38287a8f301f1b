"""`flock-ray models`, `publish`, `retire`, `alias` and `price`: what a registry serves."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from flock_ray.chain.words import format_tokens
from flock_ray.commands.output import Output
from flock_ray.market.models import Model, Price
from flock_ray.market.registry import Registry
from flock_ray.market.registry_index import Offering
from flock_ray.market.snapshot import Snapshot
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.price_book import Split

_A_MILLION = 10**6


def list_models(asked: Namespace) -> None:
    """Print the models of a registry."""
    snapshot = Registry.open(asked.registry).snapshot()
    models = snapshot.published if asked.all else snapshot.models
    output = Output(asked.json)
    if asked.json:
        output.facts({"models": [_facts(model, snapshot) for model in models]})
    elif models:
        output.facts({"models": [_row(model, snapshot) for model in models]})
    else:
        output.note(f"{asked.registry} serves no model; flock-ray publish RUN adds one", {})


def show(asked: Namespace) -> None:
    """Print all that a registry knows of a model."""
    snapshot = Registry.open(asked.registry).snapshot()
    model = snapshot.find(asked.model)
    facts = _facts(model, snapshot)
    output = Output(asked.json)
    if asked.json:
        output.facts(facts)
        return
    single = {name: value for name, value in facts.items() if not isinstance(value, (list, Mapping))}
    prices = {
        "price": _price(model.price),
        "split": _split(model.split),
        "aliases": ", ".join(facts["aliases"]) or None,
    }
    licences = {f"licence of the {name}": text for name, text in model.licences.as_json().items()}
    del single["price_prompt_wei"], single["price_output_wei"]
    origin = {
        name: facts["lineage"][0][name] for name in ("chain_id", "settlement", "distributor", "anchor", "submitter")
    }
    output.facts(
        {**single, **prices, **licences, **origin, "lineage": _steps(facts["lineage"]), "members": facts["members"]}
    )


def publish(asked: Namespace) -> None:
    """Verify a run and publish an adapter of it."""
    from flock_ray.market.publish import FREE, Listing, Trust, publish_run  # slow: it imports transformers

    output = Output(asked.json)
    listing = Listing(
        name=asked.name,
        price=_changed(FREE, asked),
        split=Split(*asked.split) if asked.split else None,
        owner=_account(asked.owner),
        host=_account(asked.host),
        base_licence=asked.licence_base,
        data_licence=asked.licence_data,
        adapter_licence=asked.licence_adapter,
        context_length=asked.context,
        base=asked.model,
    )
    model = publish_run(
        asked.registry,
        asked.run_dir,
        listing,
        epoch=asked.epoch,
        place=asked.place,
        accept=asked.accept,
        trust=Trust(asked.anchor or "", asked.rpc, asked.store),
        emit=lambda line: None if asked.json else output.note(line, {}),
    )
    told = f"Published {model.id} under {model.licences.strictest} in {asked.registry}"
    output.note(told, _facts(model, Registry.open(asked.registry).snapshot()))


def retire(asked: Namespace) -> None:
    """Serve a model no longer."""
    registry = Registry.open(asked.registry)
    model = registry.resolve(asked.model)
    gone = registry.retire(model)
    told = f"Retired {model.id}; " + (f"its aliases went with it: {', '.join(gone)}" if gone else "it had no alias")
    Output(asked.json).note(told, {"retired": model.id, "aliases": list(gone)})


def alias(asked: Namespace) -> None:
    """Let an alias stand for a model."""
    registry = Registry.open(asked.registry)
    model = registry.resolve(asked.model)
    before = registry.set_alias(asked.name, model)
    told = f"{asked.name} is {model.id} now" + (f", no longer {before.id}" if before and before != model else "")
    Output(asked.json).note(told, {"alias": asked.name, "model": model.id, "before": before.id if before else None})


def price(asked: Namespace) -> None:
    """Change how a model is sold."""
    registry = Registry.open(asked.registry)
    model = registry.resolve(asked.model)
    split = Split(*asked.split) if asked.split else model.split
    sold = registry.set_price(model, Offering(_changed(model.price, asked), split, _account(asked.host) or model.host))
    told = f"{sold.id} costs {_price(sold.price)} from now on, of which {_split(sold.split)}"
    Output(asked.json).note(told, _facts(sold, registry.snapshot()))


def _changed(price: Price, asked: Namespace) -> Price:
    """A price, with what was asked for."""
    prompt = price.prompt if asked.price_prompt is None else asked.price_prompt
    return Price(prompt, price.output if asked.price_output is None else asked.price_output)


def _account(text: str | None) -> bytes | None:
    return bytes.fromhex(text[2:]) if text else None


def _facts(model: Model, snapshot: Snapshot) -> dict[str, Any]:
    """All that is known of a model, for programs; amounts in wei."""
    split, rewards = model.split, model.weights.rewards if model.weights else {}
    earned = sorted(rewards.items(), key=lambda item: (-item[1], item[0]))
    return {
        "id": model.id,
        "name": model.name,
        "aliases": sorted(alias for alias, one in snapshot.aliases.items() if one == model.adapter),
        "state": "retired" if model.adapter in snapshot.retired else "served",
        "adapter": to_hex(model.adapter),
        "base": to_hex(model.base),
        "tokenizer": to_hex(model.tokenizer),
        "rank": model.lora.rank,
        "alpha": model.lora.alpha,
        "target_modules": list(model.lora.target_modules),
        "context_length": model.context_length,
        "template_date": model.template_date.isoformat(),
        "licence": model.licences.strictest,
        "licences": dict(model.licences.as_json()),
        "price_prompt_wei": model.price.prompt,
        "price_output_wei": model.price.output,
        "split_bps": {"host": split.host, "protocol": split.protocol, "owner": split.owner, "members": split.members},
        "host": to_hex(model.host),
        "owner": to_hex(model.owner),
        "lineage": [_step(model, snapshot)] + [_step(one, snapshot) for one in snapshot.ancestors(model)],
        "members": [{"account": to_hex(account), "earned_wei": wei} for account, wei in earned],
    }


def _step(model: Model, snapshot: Snapshot) -> dict[str, Any]:
    lineage = model.lineage
    return {
        "model": model.id,
        "adapter": to_hex(model.adapter),
        "kind": lineage.kind,
        "chain_id": lineage.chain_id,
        "settlement": to_hex(lineage.settlement),
        "distributor": to_hex(lineage.distributor),
        "task": to_hex(lineage.task),
        "epoch": lineage.epoch,
        "record": to_hex(lineage.record),
        "anchor": to_hex(lineage.anchor),
        "parent": to_hex(lineage.parent) if lineage.parent else None,
        "submitter": to_hex(lineage.submitter) if lineage.submitter else None,
    }


def _steps(lineage: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lineage as a table: newest first, then what each started from."""
    shown = ("model", "kind", "task", "epoch", "record", "parent")
    return [{name: step[name] for name in shown} for step in lineage]


def _row(model: Model, snapshot: Snapshot) -> dict[str, Any]:
    """A model in the table."""
    facts, lineage = _facts(model, snapshot), model.lineage
    return {
        "id": model.id,
        "aliases": ", ".join(facts["aliases"]),
        "base": model.base.hex()[:8],
        "rank": model.lora.rank,
        "licence": facts["licence"],
        "price": _price(model.price),
        "from": f"{lineage.kind} {lineage.task.hex()[:8]}, {'day' if lineage.submitter else 'epoch'} {lineage.epoch}",
        "members": len(facts["members"]),
        "state": facts["state"],
    }


def _price(price: Price) -> str:
    """Of a million tokens of text, in whole tokens of the chain."""
    if not price.prompt and not price.output:
        return "free"
    return f"{format_tokens(price.prompt * _A_MILLION)} / {format_tokens(price.output * _A_MILLION)} a million"


def _split(split: Split) -> str:
    parts = {"host": split.host, "protocol": split.protocol, "owner": split.owner, "members": split.members}
    return ", ".join(f"{name} {points / 100:g} %" for name, points in parts.items())
