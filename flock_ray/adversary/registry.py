"""The behaviours by name, for `adversary.attack`, `adversary.vote` and `adversary.members`."""

from __future__ import annotations

from flock_ray.adversary.alie import Alie
from flock_ray.adversary.backdoor import Backdoor
from flock_ray.adversary.behaviour import Behaviour
from flock_ray.adversary.best_public import BestPublic
from flock_ray.adversary.boosting_vote import BoostingVote
from flock_ray.adversary.bribed_vote import BribedVote
from flock_ray.adversary.collude import Collude
from flock_ray.adversary.constant_vote import AlwaysNo, AlwaysYes
from flock_ray.adversary.copy_noise import CopyNoise
from flock_ray.adversary.gauge import Gauge, Rescale
from flock_ray.adversary.gaussian import Gaussian
from flock_ray.adversary.ipm import Ipm
from flock_ray.adversary.label_flip import LabelFlip
from flock_ray.adversary.lazy_vote import LazyVote
from flock_ray.adversary.malformed import NotANumber, WrongDtype, WrongShape
from flock_ray.adversary.mimic import Mimic
from flock_ray.adversary.min_max import MinMax
from flock_ray.adversary.model_replacement import ModelReplacement
from flock_ray.adversary.negated_vote import NegatedVote
from flock_ray.adversary.one_step import OneStep
from flock_ray.adversary.others_payload import OthersPayload
from flock_ray.adversary.random_vote import RandomVote
from flock_ray.adversary.resubmit import Resubmit, ResubmitOlder
from flock_ray.adversary.shared_training import SharedTraining
from flock_ray.adversary.sign_flip import SignFlip
from flock_ray.adversary.stale import Stale
from flock_ray.adversary.sybil import Sybil
from flock_ray.adversary.targeted_vote import TargetedVote
from flock_ray.adversary.withheld_reveal import WithheldReveal
from flock_ray.adversary.zero import Zero
from flock_ray.errors import ConfigError

BEHAVIOURS: dict[str, type[Behaviour]] = {
    "none": Behaviour,
    "sign_flip": SignFlip,
    "collude": Collude,
    "nan": NotANumber,
    "wrong_shape": WrongShape,
    "wrong_dtype": WrongDtype,
    "label_flip": LabelFlip,
    "gaussian": Gaussian,
    "zero": Zero,
    "alie": Alie,
    "ipm": Ipm,
    "min_max": MinMax,
    "mimic": Mimic,
    "backdoor": Backdoor,
    "model_replacement": ModelReplacement,
    "rescale": Rescale,
    "gauge": Gauge,
    "resubmit": Resubmit,
    "resubmit_older": ResubmitOlder,
    "best_public": BestPublic,
    "others_payload": OthersPayload,
    "copy_noise": CopyNoise,
    "one_step": OneStep,
    "shared_training": SharedTraining,
    "stale": Stale,
    "sybil": Sybil,
    "always_yes": AlwaysYes,
    "always_no": AlwaysNo,
    "random_vote": RandomVote,
    "lazy_vote": LazyVote,
    "negated_vote": NegatedVote,
    "bribed_vote": BribedVote,
    "targeted_vote": TargetedVote,
    "boosting_vote": BoostingVote,
    "withheld_reveal": WithheldReveal,
}


def get_behaviour(name: str, where: str = "adversary.attack") -> type[Behaviour]:
    """The behaviour of this name.

    Args:
        name: of the behaviour.
        where: the configuration key that names it.

    Raises:
        ConfigError: no such behaviour; the text lists those that exist.
    """
    if name not in BEHAVIOURS:
        raise ConfigError(f"{where} is {name!r}; it must be one of {', '.join(sorted(BEHAVIOURS))}")
    return BEHAVIOURS[name]
