"""A rule, a wire format, a behaviour and a mechanism as CONTRIBUTING.md says: files, and lines of registries."""

from __future__ import annotations

RULE = '''
"""The update of the first member alone, for half of its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flock_ray.aggregation.rule import Rule, Weighting
from flock_ray.aggregation.start import Start
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.parameters import Parameter


class First(Rule):
    """Whoever has the lowest number counts for one `part`-th; the others have weight 0."""

    parameters: ClassVar[Mapping[str, Parameter]] = {"part": Parameter(2, 1, 100)}

    def start(self, start: Start) -> None:
        """Nobody yet."""
        self._count = 0

    def add(self, update: Adapter) -> None:
        """Count one more."""
        self._count += 1

    def finish(self) -> Weighting:
        """Weight 1 for the first."""
        return Weighting((1, *[0] * (self._count - 1)), self.values["part"])
'''

WIRE_FORMAT = '''
"""Float32 entries behind four bytes of its own."""

from __future__ import annotations

from flock_ray.lora.serialization import Adapter, Shapes
from flock_ray.wire_format.dense import Dense
from flock_ray.wire_format.wire_format import MalformedPayload


class Marked(Dense):
    """`MARK`, and the dense file after it."""

    def max_bytes(self, shapes: Shapes) -> int:
        """Four more than the dense file."""
        return 4 + super().max_bytes(shapes)

    def encode(self, update: Adapter) -> bytes:
        """The mark and the file."""
        return b"MARK" + super().encode(update)

    def decode(self, data: bytes, shapes: Shapes) -> Adapter:
        """What is behind the mark."""
        if not data.startswith(b"MARK"):
            raise MalformedPayload("it has no mark")
        return super().decode(data[4:], shapes)
'''

BEHAVIOUR = '''
"""Sends no update at all: zeros."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.lora.serialization import Adapter


class Zeros(Behaviour):
    """An update of zeros."""

    def update(self, context: Context, update: Adapter) -> Adapter:
        """Zeros."""
        return {key: factor * 0 for key, factor in update.items()}
'''

MECHANISM = '''
"""A fixed wage for whoever holds a seat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flock_ray.protocol.mechanism import Outcome, Plain
from flock_ray.protocol.parameters import Parameter


class Wage(Plain):
    """Every drawn member earns a `part`-th of the budget, and how often it was paid is noted."""

    parameters: ClassVar[Mapping[str, Parameter]] = {"part": Parameter(20, 16, 1_000)}
    scores_proposals: ClassVar[bool] = True
    scores_candidate: ClassVar[bool] = False

    def accepts(self, outcome: Outcome) -> bool:
        """Always."""
        return True

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """The same for everybody."""
        wage = outcome.budget // outcome.state.terms.mechanism_parameters["part"]
        return dict.fromkeys(sorted({*outcome.roles.voters, *outcome.roles.proposers}), wage)

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """Nobody."""
        return {}

    def noted(self, outcome: Outcome) -> dict[int, dict[str, int]]:
        """How often each was paid."""
        members = outcome.state.members
        drawn = {*outcome.roles.voters, *outcome.roles.proposers}
        return {member: {"paid": members[member].noted.get("paid", 0) + 1} for member in sorted(drawn)}
'''

PAYMENT = '''
"""`wage`: the same for whoever holds a seat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flock_ray.verify.payment import Outcome, Payment


class WagePayment(Payment):
    """A part of the budget for each drawn member."""

    scored: ClassVar[tuple[bool, bool]] = (True, False)
    bounds: ClassVar[Mapping[str, tuple[int, int]]] = {"part": (16, 1_000)}

    def accepts(self, outcome: Outcome) -> bool:
        """Always."""
        return True

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """To everybody with a seat."""
        part = outcome.budget // outcome.state.terms.mechanism_parameters["part"]
        return {member: part for member in set(outcome.seats.voters) | set(outcome.seats.proposers)}

    def noted(self, outcome: Outcome, accepted: bool) -> dict[int, dict[str, int]]:
        """Payments so far."""
        seated = set(outcome.seats.voters) | set(outcome.seats.proposers)
        return {number: {"paid": 1 + outcome.state.members[number].noted.get("paid", 0)} for number in seated}
'''

FILES = {
    "flock_ray/aggregation/first.py": RULE,
    "flock_ray/wire_format/marked.py": WIRE_FORMAT,
    "flock_ray/adversary/zeros.py": BEHAVIOUR,
    "flock_ray/protocol/wage.py": MECHANISM,
    "flock_ray/verify/payment_wage.py": PAYMENT,
    "conf/aggregation/first.yaml": "rule: first\nparameters:\n  part: 2\n",
    "conf/wire_format/marked.yaml": "name: marked\nparameters:\n  max_abs: 64\n",
    "conf/mechanism/wage.yaml": "name: wage\nparameters:\n  part: 20\n",
    "conf/adversary/zeros.yaml": "attack: zeros\nmembers: [3]\n",
}
LINES = {
    "flock_ray/aggregation/registry.py": ("flock_ray.aggregation.first", "First", 'RULES["first"] = First'),
    "flock_ray/wire_format/registry.py": ("flock_ray.wire_format.marked", "Marked", 'WIRE_FORMATS["marked"] = Marked'),
    "flock_ray/adversary/registry.py": ("flock_ray.adversary.zeros", "Zeros", 'BEHAVIOURS["zeros"] = Zeros'),
    "flock_ray/protocol/mechanisms.py": ("flock_ray.protocol.wage", "Wage", 'MECHANISMS["wage"] = Wage()'),
    "flock_ray/verify/payments.py": (
        "flock_ray.verify.payment_wage",
        "WagePayment",
        'PAYMENTS["wage"] = WagePayment()',
    ),
}
"""File of a registry -> (module, class, line)."""
