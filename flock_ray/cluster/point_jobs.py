"""Runs of a sweep as jobs of a Ray cluster, one for each point, under the point's name."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_nodes

import flock_ray
from flock_ray.errors import ClusterError

T = TypeVar("T")

INTERRUPTED = 130
PATIENCE = 60.0
"""Seconds that the dashboard may not answer in, before a sweep gives up waiting; its jobs go on."""
_MAX_NODES = 10_000
_PARENT = Path(str(flock_ray.__file__)).resolve().parents[1]
_NOT_THERE = (
    "echo 'error: {folder} is not on this node: sweep.folder must be a place that every node sees' >&2; exit {code}"
)


class JobFolder(Protocol):
    """What a job needs of a point's folder."""

    @property
    def name(self) -> str:
        """The point's id."""

    @property
    def mark(self) -> Path:
        """A file that was written before the job was submitted."""

    @property
    def log(self) -> Path:
        """Where what the job prints is kept."""

    def command(self) -> list[str]:
        """The words after `flock-ray` of its run."""

    def begins(self) -> None:
        """Note that an attempt begins."""


class JobRunner:
    """Submits a job for each run, and follows those that are there already.

    The first attempt of a point has its id as submission id, the n-th one the id with `-n`: Ray refuses a second job of
    one name, so that two sweeps never play a point twice.
    """

    pause = 1.0

    def __init__(self, address: str) -> None:
        """Connect to a cluster.

        Args:
            address: of its dashboard; `auto` for that of the cluster that this job belongs to.

        Raises:
            ClusterError: it does not answer, or refuses this client.
        """
        if address != "auto":
            for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray would take these instead
                os.environ.pop(name, None)
        logging.getLogger("ray").setLevel(logging.ERROR)  # else it tells of every file that it does not upload
        try:
            self._client = JobSubmissionClient(address)
        except Exception as error:  # of its HTTP library, of its own, by what is wrong
            raise ClusterError(
                f"no jobs can be submitted to {address!r}: {_line(error)}; it must be a cluster's dashboard, such as"
                " http://127.0.0.1:8265, and RAY_AUTH_MODE the same here as there"
            ) from None

    def machines(self) -> list[dict[str, float]]:
        """Resources of each living machine of the cluster."""
        address = self._client.get_address()
        nodes = _asked(lambda: list_nodes(address=address, limit=_MAX_NODES, raise_on_missing_output=False))
        return [node.resources_total for node in nodes if node.state == "ALIVE"]

    def start(self, folder: JobFolder, slot: int) -> Job:
        """Submit a job for a point's run, or follow the one that runs already; it never waits for another one.

        Raises:
            ClusterError: the dashboard refuses the job, or does not answer.
        """
        jobs = _asked(self._client.list_jobs)
        statuses = {job.submission_id: job.status for job in jobs if job.submission_id}
        attempt, name = 1, folder.name
        while name in statuses and statuses[name].is_terminal():
            attempt += 1
            name = f"{folder.name}-{attempt}"
        if name not in statuses:
            folder.begins()
            self._submit(name, folder)
        return Job(self._client, name, folder.log)

    def _submit(self, name: str, folder: JobFolder) -> None:
        words = shlex.join(["python", "-m", "flock_ray", *folder.command()])
        refusal = _NOT_THERE.format(folder=folder.mark.parent, code=ClusterError.exit_code)
        entrypoint = f"if [ -f {shlex.quote(str(folder.mark))} ]; then exec {words}; else {refusal}; fi"
        try:
            self._client.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env=_runtime_env())
        except Exception as error:
            if "already exists" in str(error):  # another sweep was faster: follow its job
                return
            raise ClusterError(
                f"the cluster does not take the job of point {folder.name[:8]}: {_line(error)}"
            ) from None


class Job:
    """A job that was submitted."""

    def __init__(self, client: JobSubmissionClient, name: str, log: Path) -> None:
        """Follow a job.

        Args:
            client: of its cluster.
            name: its submission id.
            log: where what it printed goes when it has ended.
        """
        self._client, self._name, self._log = client, name, log

    def poll(self) -> int | None:
        """Its exit code; None while it runs or waits. A job that Ray could not start has that of a ClusterError.

        Raises:
            ClusterError: the dashboard does not answer; the job goes on.
        """
        found = _asked(lambda: self._client.get_job_info(self._name))
        if not found.status.is_terminal():
            return None
        printed = _asked(lambda: self._client.get_job_logs(self._name))
        code = _exit_code(found)
        with self._log.open("a") as log:
            log.write(printed)
            if code and found.driver_exit_code is None:
                log.write(f"\nerror: the job {found.status.lower()}: {' '.join((found.message or '').split())}\n")
        return code

    def interrupt(self) -> None:
        """Have Ray stop it, which sends SIGTERM first; what was signed by then is resumed from."""
        _asked(lambda: self._client.stop_job(self._name))

    def kill(self) -> None:
        """Ray kills by itself what does not end."""


def _exit_code(found: Any) -> int:
    if found.status == JobStatus.SUCCEEDED:
        return 0
    if found.status == JobStatus.STOPPED:
        return INTERRUPTED
    code = found.driver_exit_code
    return ClusterError.exit_code if code is None else 128 - code if code < 0 else code


def _runtime_env() -> dict[str, Any]:
    """This checkout as the job's working directory; an installed package is on the cluster as well."""
    return {"working_dir": str(_PARENT)} if (_PARENT / "conf").is_dir() else {}


def _asked(ask: Callable[[], T]) -> T:
    """What the dashboard answers, which may be away for a while.

    Raises:
        ClusterError: it stays away.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except Exception as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the cluster's dashboard does not answer ({_line(error)}); jobs go on, and the same command"
                    " follows them again"
                ) from None
            time.sleep(1.0)


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
