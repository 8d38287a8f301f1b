"""A proposer's way from update to payload where encoding loses something: clip, feedback, encode."""

from __future__ import annotations

from flock_ray.lora.algebra import add, subtract
from flock_ray.lora.serialization import Adapter, Shapes
from flock_ray.wire_format.wire_format import MalformedPayload, WireFormat


def encode_with_feedback(
    wire_format: WireFormat, shapes: Shapes, update: Adapter, carried: Adapter | None
) -> tuple[bytes, Adapter | None]:
    """The payload of update + carried residual, and the residual that is carried on.

    residual = update + carried - decoded payload (Karimireddy et al. 2019, arXiv:1901.09847, algorithm 2). What a
    payload cannot hold, entries beyond `max_abs` among it, is so left for later updates.

    Args:
        wire_format: of the task.
        shapes: of the task's adapter.
        update: factor deltas; it is not changed.
        carried: residual of the member's last update; None for none.

    Returns:
        The payload; the residual, None where no receiver will accept the payload.
    """
    if {key: tuple(factor.shape) for key, factor in update.items()} != dict(shapes):
        return wire_format.encode(update), None
    wanted = add(update, carried) if carried else update
    limit = wire_format.max_abs
    payload = wire_format.encode({key: factor.clamp(-limit, limit) for key, factor in wanted.items()})
    try:
        sent = wire_format.decode(payload, shapes)
    except MalformedPayload:  # not a number
        return payload, None
    return payload, subtract(wanted, sent)
