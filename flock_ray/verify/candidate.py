"""The candidate adapters, computed again from the accepted payloads."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.aggregation.registry import rule_of
from flock_ray.aggregation.rule import Rule
from flock_ray.aggregation.start import Start
from flock_ray.errors import VerificationError
from flock_ray.lora.fixed_point import FixedPointSum
from flock_ray.lora.serialization import MAX_ADAPTER_BYTES, Adapter, Shapes, adapter_hash
from flock_ray.protocol.encoding import parse_json, to_hex
from flock_ray.protocol.state import Terms
from flock_ray.verify.compare import require, require_equal
from flock_ray.verify.epoch import Replay
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.payments import PAYMENTS
from flock_ray.verify.residual import Public, moves_between
from flock_ray.verify.scores import DECODED
from flock_ray.wire_format.dense import read_canonical
from flock_ray.wire_format.registry import wire_format_of
from flock_ray.wire_format.wire_format import MalformedPayload

_MAX_HEADER = 1 << 24


class Payloads:
    """Decodes the proposers' payloads within bounds, and combines the accepted ones."""

    def __init__(self, folder: RunFolder, terms: Terms) -> None:
        """Read blobs from `folder`; payloads are of the wire format in the terms."""
        self._folder, self._wire_format = folder, wire_format_of(terms)
        self._payment = PAYMENTS[terms.mechanism]
        self._known: dict[bytes, tuple[Adapter, Shapes]] = {}

    def check(self, replay: Replay) -> int:
        """Check every payload that the voters judged, and the bytes of the candidates; returns how many were decoded.

        Raises:
            VerificationError: a payload or an adapter is missing, or contradicts the ballots.
        """
        epoch, decoded = replay.state.epoch, 0
        needed = {*replay.state.earlier_adapters, replay.state.adapter}
        self._known = {digest: adapter for digest, adapter in self._known.items() if digest in needed}
        accepted: dict[int, Adapter] = {}
        for proposal in (proposal for proposal in replay.proposals if proposal.status in DECODED):
            member, payload, status = proposal.member, proposal.payload, proposal.status
            assert payload is not None
            what = f"epoch {epoch}: payload {to_hex(payload)[:18]}… of member {member}, judged {status},"
            update = self._update(replay.state.adapter, payload, what)
            if status == "malformed":
                require(update is None, f"{what} decodes")
                continue
            require(update is not None, f"{what} is malformed")
            decoded += 1
            if update is not None and status == "accepted":
                accepted[member] = update
        if replay.candidate.adapter is not None:
            self._check_candidates(replay, accepted)
        return decoded

    def _check_candidates(self, replay: Replay, updates: dict[int, Adapter]) -> None:
        epoch, state = replay.state.epoch, replay.state
        assert replay.candidate.step is not None
        history = [self._adapter(digest)[0] for digest in (*state.earlier_adapters, state.adapter)]
        rule, entering = rule_of(state.terms), list(updates.values())
        try:
            if self._payment.split:
                public = Public(moves_between(history))
                entering = [public.entering(update) for update in entering]
            weights, candidates = combined(Start(history[-1]), rule, entering, self._payment.steps)
        except ValueError as error:
            raise VerificationError(f"epoch {epoch}: the accepted updates do not combine: {error}") from None
        pairs = [list(pair) for pair in zip(updates, weights, strict=True)]
        require_equal([list(pair) for pair in replay.candidate.weights], pairs, f"epoch {epoch}: candidate weights")
        if not candidates:
            raise VerificationError(f"epoch {epoch}: every accepted update has weight 0, and there is a candidate")
        digests = [to_hex(adapter_hash(candidate)) for candidate in candidates]
        taken = self._payment.steps.index(replay.candidate.step)
        what = f"epoch {epoch}: candidate adapter from the accepted payloads"
        require_equal(to_hex(replay.candidate.adapter or b""), digests[taken], what)
        require_equal([to_hex(adapter) for _, adapter, _ in replay.candidate.steps], digests, f"{what}, by step")
        if replay.accepted:
            self._known[replay.adapter] = candidates[taken], _shapes_of(candidates[taken])

    def _update(self, start: bytes, payload: bytes, what: str) -> Adapter | None:
        """The decoded payload; None if it is malformed, which includes too long."""
        _, shapes = self._adapter(start)
        data = self._folder.blob(payload, 2 * self._wire_format.max_bytes(shapes))
        if data is None:
            raise self._folder.lacking(what)
        try:
            return self._wire_format.decode(data, shapes)
        except MalformedPayload:
            return None

    def _adapter(self, digest: bytes) -> tuple[Adapter, Shapes]:
        """A global adapter, and the shapes that its header states."""
        if digest not in self._known:
            data = self._folder.blob(digest, MAX_ADAPTER_BYTES)
            if data is None:
                raise self._folder.lacking(f"the global adapter {to_hex(digest)}")
            shapes = _stated_shapes(data)
            self._known[digest] = _decoded(data, shapes), shapes
        return self._known[digest]


def combined(
    start: Start, rule: Rule, updates: Sequence[Adapter], steps: Sequence[int]
) -> tuple[tuple[int, ...], list[Adapter]]:
    """The weights of updates, and start + floor(step * sum of weight * update / denominator) for each step.

    A rule whose points are no such sum makes those of step 1: there it is start + step * point.

    Args:
        start: the global adapter.
        rule: of the task.
        updates: what enters, by ascending member.
        steps: at least one.

    Returns:
        No adapter if all weights are 0.

    Raises:
        ValueError: see `Aggregation`.
    """
    rule.start(start)
    for update in updates:
        rule.add(update)
    weighting = rule.finish()
    if not any(weighting.weights):
        return weighting.weights, []
    if weighting.points is not None:
        return weighting.weights, [start.plus(step * weighting.points) for step in steps]
    total = FixedPointSum(start.points.numel())
    for update, weight in zip(updates, weighting.weights, strict=True):
        total.add(start.row(update), weight)
    whole = total.over(weighting.denominator)
    rest = total.over(1) - whole * weighting.denominator  # step * sum might leave int64
    return weighting.weights, [
        start.plus(step * whole + (step * rest).div(weighting.denominator, rounding_mode="floor")) for step in steps
    ]


def _decoded(data: bytes, shapes: Shapes) -> Adapter:
    try:
        return read_canonical(data, shapes)
    except MalformedPayload as error:
        raise VerificationError(f"a global adapter is malformed: {error}") from None


def _stated_shapes(data: bytes) -> Shapes:
    """Keys and shapes in the header of a safetensors file; the factors must fill the file exactly."""
    try:
        end = 8 + int.from_bytes(data[:8], "little")
        if end > min(len(data), _MAX_HEADER):
            raise ValueError("its header is longer than the file")
        header = parse_json(data[8:end].decode(), 4)
        shapes = {str(key): tuple(int(size) for size in entry["shape"]) for key, entry in header.items()}
        total = 0
        for shape in shapes.values():
            if len(shape) != 2 or min(shape) < 1 or max(shape) > len(data):
                raise ValueError("a factor is no matrix")
            total += 4 * shape[0] * shape[1]
        if end + total != len(data):
            raise ValueError("its factors do not fill it")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise VerificationError(f"a global adapter is no safetensors file of factors: {error}") from None
    return shapes


def _shapes_of(adapter: Adapter) -> Shapes:
    return {key: tuple(factor.shape) for key, factor in adapter.items()}
