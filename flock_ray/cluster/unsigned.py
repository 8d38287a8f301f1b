"""A worker that costs little beside training and scoring, for simulations in one process that nobody has to believe.

Keys, salts and reveals are those of a signed run, and so is every byte of the records: what is left out are signatures,
the second opinion, which checks them once more, and loading what the worker before it in this process has loaded.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from flock_ray.chain.epoch_report import Report
from flock_ray.chain.keys import Signer, checksummed
from flock_ray.cluster.attestation import Bulletin, MessageVerifier
from flock_ray.cluster.workbench import Resident, Workbench
from flock_ray.cluster.worker import Worker
from flock_ray.protocol.record import Record
from flock_ray.training.data import Reading, Silo, read_silo, split_silo
from flock_ray.training.engine import Rendezvous

_PADDING = bytes(45)


class UnsignedSigner(Signer):
    """An account whose "signature" is its address, which `signer_named` reads back: whoever writes can forge it."""

    __slots__ = ()

    def __init__(self, signer: Signer) -> None:
        """Stand for an account."""
        self._key, self.address = signer._key, signer.address

    def sign_digest(self, digest: bytes) -> bytes:
        """The address in 65 bytes, whatever the digest."""
        return bytes.fromhex(self.address[2:]) + _PADDING


def signer_named(digest: bytes, signature: bytes) -> str | None:
    """The account that an unsigned message names; as `recover` in what it takes and returns."""
    if len(signature) != 65 or signature[20:] != _PADDING:
        return None
    return checksummed(signature[:20].hex())


UnsignedVerifier = partial(MessageVerifier, recover=signer_named)
"""Opens messages that name their sender."""


class SharedBench(Workbench):
    """Takes base model, engine and rows from the bench before it in this process, where the configuration allows it."""

    _last: ClassVar[tuple[tuple[Any, ...], Resident] | None] = None
    _readings: ClassVar[dict[tuple[Any, ...], Reading]] = {}

    def _load_resident(self, rendezvous: Rendezvous) -> Resident:
        spec, kept = self.spec, SharedBench._last
        serves = (
            spec.model, spec.lora, spec.engine, spec.backend, spec.compiled, spec.checkpointing, spec.cohort_tokens,
            spec.threads, spec.deterministic, spec.data.longest, spec.data.sequence_length,
        )  # fmt: skip
        if kept is None or kept[0] != serves:
            if kept is None or kept[0][0] != spec.model:
                SharedBench._readings.clear()  # they are in another tokenizer's tokens
            kept = SharedBench._last = serves, super()._load_resident(rendezvous)
        self.base, self.backend, self.notes = kept[1].base, kept[1].backend, kept[1].notes
        return kept[1]

    def _load_silo(self, number: int) -> Silo:
        data, number = self.spec.data, self.spec.data_of.get(number, number)
        what = (
            data.kind, repr(data.path), data.packages, data.sequence_length, data.max_bad_rows, data.template_date,
            number,
        )  # fmt: skip
        if what not in SharedBench._readings:
            SharedBench._readings[what] = read_silo(data, number, self.base.tokenizer)
        return split_silo(SharedBench._readings[what], data, number)

    def close(self) -> None:
        """Let the threads go; the engine stays."""
        self.updates.close()


class UnsignedWorker(Worker):
    """A worker over the shared bench whose members do not sign."""

    workbench = SharedBench
    verifier = UnsignedVerifier

    def _open_signer(self, name: str) -> Signer:
        return UnsignedSigner(super()._open_signer(name))

    def _second_opinion(self, bulletin: Bulletin, own: Record, report: Report) -> str:
        return ""
