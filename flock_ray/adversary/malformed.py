"""Validly signed updates that a receiver must refuse, one behaviour per check."""

from __future__ import annotations

from collections.abc import Callable

import safetensors.torch
import torch

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.lora.serialization import LORA_B, Adapter


class NotANumber(Behaviour):
    """A NaN in an otherwise honest update: unchecked, it would make the mean NaN."""

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The update with the first entry of its first factor NaN."""
        key = min(update)
        factor = update[key].clone()
        factor.view(-1)[0] = torch.nan
        return {**update, key: factor}


class WrongShape(Behaviour):
    """The honest numbers with one factor flattened: unchecked, broadcasting would add them in the wrong places."""

    def payload(self, context: Context, update: Adapter, encode: Callable[[Adapter], bytes]) -> bytes:
        """The encoded update whose first B, which travels in every wire format, has lost its shape."""
        key = min(key for key in update if key.endswith(LORA_B))
        return encode({**update, key: update[key].flatten()})


class WrongDtype(Behaviour):
    """The honest bits declared as 32-bit integers: unchecked, a reader would read numbers of about 10^9."""

    def payload(self, context: Context, update: Adapter, encode: Callable[[Adapter], bytes]) -> bytes:
        """A safetensors file of int32 views, as long as the honest dense file."""
        return safetensors.torch.save({key: factor.view(torch.int32) for key, factor in update.items()})
