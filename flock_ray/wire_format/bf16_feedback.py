"""Half the bytes: bfloat16 entries, whose rounding errors are made up for by the member's next update."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from flock_ray.lora.serialization import Adapter, Shapes, layout
from flock_ray.wire_format.wire_format import WireFormat, checked, entries


class Bf16Feedback(WireFormat):
    """A safetensors file of bfloat16 factors: float32 rounded to its upper half, to nearest, ties to even.

    With error feedback (Seide et al. 2014, "1-Bit Stochastic Gradient Descent"; Karimireddy et al. 2019,
    arXiv:1901.09847): see `feedback.encode_with_feedback`. An entry may be up to `max_abs` rounded in the same way.
    """

    feedback: bool = True

    def __init__(self, values: Mapping[str, int]) -> None:
        """Take the value of every parameter."""
        super().__init__(values)
        self._bound = float(torch.tensor(float(self.max_abs)).bfloat16())

    def max_bytes(self, shapes: Shapes) -> int:
        """Length of every valid payload."""
        return layout(shapes, torch.bfloat16).size

    def encode(self, update: Adapter) -> bytes:
        """The rounded factors, in the order of the canonical file."""
        for key, factor in update.items():
            if factor.dtype != torch.float32:
                raise ValueError(f"{key} is {factor.dtype}; an update has torch.float32 only")
        target = layout({key: tuple(factor.shape) for key, factor in update.items()}, torch.bfloat16)
        keys = sorted(update, key=lambda key: target.places[key])
        rounded = (update[key].detach().cpu().contiguous().view(-1).bfloat16() for key in keys)
        return b"".join([target.header, *(part.view(torch.int16).numpy().tobytes() for part in rounded)])

    def decode(self, data: bytes, shapes: Shapes) -> Adapter:
        """The update in these bytes, or a refusal: see `WireFormat.decode`."""
        expected = layout(shapes, torch.bfloat16)
        return checked(entries(data, expected, torch.bfloat16).float(), expected, self._bound)
