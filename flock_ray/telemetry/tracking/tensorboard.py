"""TensorBoard's event files in `tensorboard/` of the run folder: `tensorboard --logdir outputs`."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboardX import SummaryWriter

from flock_ray.telemetry.tracking.tracker import TrackedRun, Tracker


class TensorBoard(Tracker):
    """An event file, written without TensorBoard itself."""

    def __init__(self, run: TrackedRun) -> None:
        """Open another event file in the folder."""
        folder = run.folder / "tensorboard"
        earlier = len(list(folder.glob("*")))  # a file is named by the second, and one of the same name is overwritten
        self._writer = SummaryWriter(str(folder), filename_suffix=f".{earlier}")

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if axis == "epoch":
            self._writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()
