"""What of its blobs a run keeps once it is whole (`store.keep`), and the removal of the rest.

Only what the run's own records and receipts name is removed, so a prune that was cut short is finished by another, and
at every moment between them the run verifies as far as its level lets it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.cluster.signing_log import entries_of
from flock_ray.config import Keep, StoreConfig
from flock_ray.protocol.encoding import from_hex
from flock_ray.store.blob_store import BlobStore, StoreUnavailableError
from flock_ray.store.retry import retried
from flock_ray.telemetry.events import EventLog
from flock_ray.verify.scores import DECODED

Removal = Callable[[], int | None]
"""Removes one thing for good; gives the bytes that this frees, None where it frees none."""


def prune(run: RunDirectory, config: StoreConfig, tell: Callable[[str], None]) -> None:
    """Remove what `config.keep` does not keep, if the run is whole; what fails costs one line and never the run.

    Args:
        run: nothing of it is running any more.
        config: of the run.
        tell: takes a line for people.
    """
    if config.keep is Keep.all or not run.whole:
        return
    try:
        sizes = [retried(remove, StoreUnavailableError) for remove in _removals(run, config)]
        freed = [size for size in sizes if size is not None]
        if freed:
            with EventLog(run.events) as events:
                events.emit("store_pruned", keep=config.keep, removed=len(freed), bytes=sum(freed))
            tell(f"Store pruned (store.keep={config.keep.value}): {len(freed)} removed, {sum(freed) / 1e6:.1f} MB")
    except Exception as error:  # the run is whole, whatever it is
        tell(f"Store not pruned to the end, resume={run.path} goes on with it: {' '.join(str(error).split())}")


def _removals(run: RunDirectory, config: StoreConfig) -> Iterator[Removal]:
    """Everything that goes.

    Payloads that members hold privately go first: where the store links to them, they take no room of their own.
    """
    for path in sorted(run.path.glob("members/*/vault/*/*")):
        yield partial(_remove_file, path)
    if config.url and config.shared:
        return  # another run may have put the same blobs there, and need them
    store = BlobStore(config.url or str(run.store))
    yield partial(store.remove_named, entries_of(from_hex(run.read_task()[0]["task"])))
    for digest in sorted(superfluous(run, config.keep)):
        yield partial(store.remove, digest)


def superfluous(run: RunDirectory, keep: Keep) -> set[bytes]:
    """Hashes of the blobs that a whole run names and need not keep.

    `replay` keeps all signed messages, the payloads that the verifier decodes, and the first and the final adapter:
    those between come out of the payloads again. `adapter` keeps the final adapter.
    """
    receipts = [_read(path) for path in _written(run, "receipts")]
    messages = {from_hex(name) for receipt in receipts for name in receipt.get("messages", ())}
    current = {path: _read(path) for path in sorted((run.path / "records").glob("*.json"))}
    records = [_read(path) for path in _written(run, "records")]
    if any("submissions" in record for record in records):
        return _of_contest(run, records, messages, keep)
    payloads = {proposal["payload"] for record in records for proposal in record["proposals"]}
    adapters = {name for record in records for name in (record["adapter"], record["candidate"]["adapter"])}
    proposals = [proposal for record in current.values() for proposal in record["proposals"]]
    decoded = {proposal["payload"] for proposal in proposals if proposal["status"] in DECODED}
    first, final = run.read_task()[0]["terms"]["start_adapter"], _read(run.summary)["final_adapter_hash"]
    named = messages | {from_hex(name) for name in payloads | adapters | {first} if name}
    kept = {from_hex(final)}
    if keep is Keep.replay:
        kept |= messages | {from_hex(name) for name in decoded | {first}}
    return set() if keep is Keep.all else named - kept


def _of_contest(
    run: RunDirectory, records: Sequence[Mapping[str, Any]], messages: set[bytes], keep: Keep
) -> set[bytes]:
    """As `superfluous`: a replay keeps every payload, which others may score again; else only the leader is kept."""
    payloads = {one["payload"] for record in records for one in record["submissions"] if one["payload"]}
    named = messages | {from_hex(name) for name in (*payloads, run.read_task()[0]["terms"]["start_adapter"])}
    return named - {from_hex(_read(run.summary)["final_adapter_hash"])} if keep is Keep.adapter else set()


def _written(run: RunDirectory, folder: str) -> list[Path]:
    """Files of `folder`, those that an abandoned epoch made void among them."""
    return sorted([*(run.path / folder).glob("*.json"), *run.path.glob(f"void/*/{folder}/*.json")])


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value


def _remove_file(path: Path) -> int | None:
    status = path.stat()
    path.unlink()
    return status.st_size if status.st_nlink == 1 else None
