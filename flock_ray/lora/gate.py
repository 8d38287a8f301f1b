"""The gate of a contest: what can be said of a payload before anything of it is loaded into a model."""

from __future__ import annotations

import math

import numpy as np
import torch

from flock_ray.lora.fixed_point import extremes
from flock_ray.lora.foreign import with_rank
from flock_ray.lora.serialization import LORA_A, Adapter, Shapes, layout
from flock_ray.protocol.contest_message import Finding
from flock_ray.protocol.encoding import parse_json

_MAX_HEADER_BYTES = 1 << 24
_MAX_DEPTH = 4


def inspect(data: bytes, shapes: Shapes, max_rank: int) -> tuple[Finding, Adapter | None]:
    """The gate's finding on a payload, with the adapter if it is valid.

    A valid payload is the canonical file of an adapter for every layer of `shapes`, of one rank up to `max_rank`, with
    finite entries. Its header follows from that, so nothing of a stranger's header is trusted.

    Args:
        data: bytes of the payload.
        shapes: key -> shape of all layers, of any rank.
        max_rank: largest rank of the contest.
    """
    if len(data) > layout(with_rank(shapes, max_rank)).size:
        return Finding.TOO_LARGE, None
    header = header_of(data)
    if header is None:
        return Finding.MALFORMED, None
    if header.keys() != shapes.keys():
        return Finding.WRONG_KEYS, None
    rank = header[min(key for key in shapes if key.endswith(LORA_A))][0]
    if not 1 <= rank <= max_rank:
        return Finding.TOO_LARGE if rank > max_rank else Finding.WRONG_SHAPES, None
    if header != with_rank(shapes, rank):
        return Finding.WRONG_SHAPES, None
    expected = layout(with_rank(shapes, rank))
    if len(data) != expected.size or not data.startswith(expected.header):
        return Finding.MALFORMED, None
    body = torch.from_numpy(np.frombuffer(data, np.float32, offset=len(expected.header)).copy())
    if not all(map(math.isfinite, extremes(body))):
        return Finding.NOT_FINITE, None
    return Finding.VALID, {
        key: body[first : first + math.prod(shape)].view(shape)
        for key, (first, shape) in sorted(expected.places.items())
    }


def header_of(data: bytes) -> dict[str, tuple[int, int]] | None:
    """{key: shape} of a safetensors file of matrices, None if it is none; only names and numbers are read."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(len(data) - 8, _MAX_HEADER_BYTES):
        return None
    try:
        header = parse_json(data[8 : 8 + length].decode(), _MAX_DEPTH)
    except ValueError:
        return None
    if not isinstance(header, dict):
        return None
    shapes = {}
    for key, entry in header.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(size) is int for size in shape):
            return None
        shapes[key] = (shape[0], shape[1])
    return shapes
