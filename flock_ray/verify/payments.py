"""The payment mechanisms by name, for the verifier."""

from __future__ import annotations

from flock_ray.verify.payment import Payment
from flock_ray.verify.payment_flock import FlockPayment
from flock_ray.verify.payment_marginal import MarginalPayment
from flock_ray.verify.payment_open import OpenPayment

PAYMENTS: dict[str, Payment] = {"marginal1": MarginalPayment(), "flock": FlockPayment(), "open": OpenPayment()}
