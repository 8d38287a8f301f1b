"""One exception class a cause, each with the exit code that the command line ends with.

Exit codes come in blocks of ten a component, so that a script can tell what failed without reading text:
10s configuration, 20s data and model, 30s cluster, 40s chain, 50s protocol, 60s storage, 70s serving, 80s sweeps. 1 is
an unexpected error of ours, 2 a wrong command line, 130 an interrupt.
"""

from __future__ import annotations

from typing import ClassVar


class FlockRayError(Exception):
    """Base of every error that a user can cause or repair: its text is one line that says what would be right."""

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[type[FlockRayError], tuple[str]]:
        return type(self), (str(self),)


class ConfigError(FlockRayError, ValueError):
    """A configuration key is unknown, or values do not fit together."""

    exit_code: ClassVar[int] = 10


class CaptureRiskError(ConfigError):
    """The chance that dishonest seats capture a committee is above the limit and `alliance.force` is off."""

    exit_code: ClassVar[int] = 11


class DataError(FlockRayError, ValueError):
    """A silo is missing, empty, too small or malformed. Names file and line number, never text of the data."""

    exit_code: ClassVar[int] = 20


class ModelError(FlockRayError, ValueError):
    """The base model cannot be loaded or trained, or `lora.target_modules` names modules that it does not have."""

    exit_code: ClassVar[int] = 21


class TrainingError(FlockRayError):
    """Local training cannot run as configured (engine, ZeRO stage, ranks)."""

    exit_code: ClassVar[int] = 22


class AdapterError(FlockRayError, ValueError):
    """An adapter of another's making is refused, by the name of what it uses."""

    exit_code: ClassVar[int] = 23


class PlacementError(FlockRayError):
    """The cluster has not the resources that the placement plan asks for."""

    exit_code: ClassVar[int] = 30


class NodeGroupError(FlockRayError):
    """A node group failed more often than it is rebuilt."""

    exit_code: ClassVar[int] = 31


class ClusterError(FlockRayError):
    """Ray cannot be started or reached, or fails in a way that no other class names."""

    exit_code: ClassVar[int] = 32


class RayLostError(FlockRayError):
    """Ray's head or the driver's raylet is gone: no run can go on without it, but a resumed one can."""

    exit_code: ClassVar[int] = 33


class WorkerMemoryError(FlockRayError):
    """A worker ran out of memory, and did so again after it was rebuilt; or the driver did."""

    exit_code: ClassVar[int] = 34


class HangError(FlockRayError):
    """A worker or the coordinator neither works nor answers, and did so again after it was rebuilt."""

    exit_code: ClassVar[int] = 35


class ChainError(FlockRayError):
    """A transaction failed for a reason that no other class names."""

    exit_code: ClassVar[int] = 40


class ChainUnreachableError(ChainError):
    """No answer from the RPC, or the embedded chain did not start (its port is taken, say)."""

    exit_code: ClassVar[int] = 41


class WrongChainError(ChainError):
    """The RPC serves another chain id than `chain.chain_id` names."""

    exit_code: ClassVar[int] = 42


class KeyMissingError(ChainError):
    """A private key or keystore that an account needs is not there, or does not open."""

    exit_code: ClassVar[int] = 43


class FundsError(ChainError):
    """An account has too little stake or too little gas money."""

    exit_code: ClassVar[int] = 44


class AddressBookError(ChainError):
    """The address book of a deployment is damaged, or belongs to another chain, account or choice of settings."""

    exit_code: ClassVar[int] = 45


class DeploymentError(ChainError):
    """What stands on the chain is not what the address book, the artifacts and the settings say."""

    exit_code: ClassVar[int] = 46


class TaskClosedError(ChainError):
    """The task was closed before its last epoch, because too many epochs in a row were abandoned."""

    exit_code: ClassVar[int] = 47


class ProtocolError(FlockRayError):
    """The epoch cannot go on by the rules: no quorum of signatures, or messages that contradict the record."""

    exit_code: ClassVar[int] = 50


class VerificationError(FlockRayError):
    """A run claims something that its signed messages, its blobs or its chain do not bear out."""

    exit_code: ClassVar[int] = 51


class StoreError(FlockRayError):
    """A blob is missing or has other bytes than its hash says, or the store is full, away, or another on each node."""

    exit_code: ClassVar[int] = 60


class RunDirectoryError(FlockRayError):
    """A run's folder holds no run, or no whole run where one is needed, or another configuration's; or is full."""

    exit_code: ClassVar[int] = 61


class RequestError(FlockRayError, ValueError):
    """A request that an engine cannot answer as it is asked: too long, say, or with values that do not fit."""

    exit_code: ClassVar[int] = 70


class UnknownAdapterError(RequestError):
    """A request names an adapter that the engine does not serve."""

    exit_code: ClassVar[int] = 71


class BusyError(FlockRayError):
    """An engine is closed, or as many requests wait as may; a later one may be answered."""

    exit_code: ClassVar[int] = 72


class RegistryError(FlockRayError, ValueError):
    """A folder holds no registry of models, a damaged one, or one that does not take what is published."""

    exit_code: ClassVar[int] = 73


class UnknownModelError(RegistryError):
    """A registry has no model of that id, hash, alias or name, or no longer serves it."""

    exit_code: ClassVar[int] = 74


class LedgerError(FlockRayError, ValueError):
    """A ledger's URL is wrong, its database is another program's or version's, or it is another gateway's."""

    exit_code: ClassVar[int] = 75


class KeyRefusedError(FlockRayError, ValueError):
    """A key is unknown, revoked or expired, or may not ask a model."""

    exit_code: ClassVar[int] = 76


class BudgetError(FlockRayError):
    """A request may cost more than the key's budget, the account's cap or its deposit has left."""

    exit_code: ClassVar[int] = 77


class RateLimitedError(FlockRayError):
    """A key or account asks more than it may in a minute, or at once.

    Attributes:
        retry_after: seconds after which the same request may pass; None: it never may.
    """

    exit_code: ClassVar[int] = 78

    def __init__(self, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[RateLimitedError], tuple[str, int | None]]:  # type: ignore[override]
        return type(self), (str(self), self.retry_after)


class ServeError(FlockRayError):
    """What is to be served cannot be: the port is taken, another application is there, or Ray Serve does not start."""

    exit_code: ClassVar[int] = 79


class SweepError(FlockRayError):
    """Points of a sweep have failed, or did not come to their end. The others are whole."""

    exit_code: ClassVar[int] = 80
