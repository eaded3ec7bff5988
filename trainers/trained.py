"""trained: a run's folder -> its best network behind its mel, and what that makes of sounds, as evaluation hears them.

A sound is heard whole, in windows of streaming.evaluation's length; what comes of a window weighs as much as the window
holds. Windows of one length go through together and no padding is heard, so a sound's answer doesn't depend on others.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.errors import DataError
from streaming.device import choose_device
from streaming.evaluation import LONGEST_SECONDS
from streaming.world import World
from trainers import checkpoint
from trainers.config import TrainConfig, read_config
from trainers.data import open_data
from trainers.finish import load_network
from trainers.mel import LogMel
from trainers.run import Run, open_run_at
from trainers.session import Session
from trainers.task import Task

ROWS = 16  # windows at a time


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A run's best network, ready to be asked; `state` is its checkpoint's."""

    run: Run
    config: TrainConfig
    state: dict[str, Any]
    mel: LogMel
    model: torch.nn.Module
    task: Task
    sample_rate: int
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what the network tells apart."""
        return self.task.classes

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(LONGEST_SECONDS * self.sample_rate)


def open_trained(place: str, *, device: str) -> Trained:
    """Open the run at PLACE, a folder or URL; nothing else is needed.

    Raises:
        UsageError: there is no such run, or no such device.
        DataError: the run has no whole checkpoint.
    """
    run, session = open_run_at(place), Session(world=World(), device=choose_device(device))
    config = read_config(run.config)
    found = checkpoint.newest(run.best, run.last)
    state = checkpoint.read_state(found) if found else {}
    # runs that began before checkpoints held the rate have it in their data alone
    rate = state["sample_rate"] if "sample_rate" in state or not found else open_data(config).sample_rate
    model, mel, task = load_network(run, config, sample_rate=rate, session=session)
    return Trained(
        run=run, config=config, state=state, mel=mel.eval(), model=model.eval(), task=task, sample_rate=rate,
        device=session.device,
    )  # fmt: skip


Windows = Iterable[NDArray[np.float32]]
Vector = NDArray[np.float32]


@torch.no_grad()
def vectors(
    network: torch.nn.Module, sounds: Iterable[Windows], *, device: torch.device
) -> Iterator[Vector | DataError]:
    """Yield for each sound, in order, what the network makes of its windows (time,), averaged; or why it can't be had.

    The network takes waveforms (rows, time) and gives (rows, n).
    """
    sums: dict[int, NDArray[np.float64]] = {}
    held: dict[int, int] = {}
    faults: dict[int, DataError] = {}
    stream, given, number = _numbered(sounds), 0, -1
    while chunk := list(itertools.islice(stream, ROWS)):
        faults |= {number: what for number, what in chunk if isinstance(what, DataError)}
        heard = [(number, what) for number, what in chunk if not isinstance(what, DataError)]
        told = _run(network, [window for _, window in heard], device=device)
        for (number, window), vector in zip(heard, told, strict=True):
            sums[number] = sums.get(number, 0) + vector.astype(np.float64) * len(window)
            held[number] = held.get(number, 0) + len(window)
        number = chunk[-1][0]  # may go on in the next chunk
        for done in range(given, number):
            yield _mean(sums.pop(done, None), held.pop(done, 0), fault=faults.pop(done, None))
        given = number
    if number >= 0:
        yield _mean(sums.pop(number, None), held.pop(number, 0), fault=faults.pop(number, None))


def _numbered(sounds: Iterable[Windows]) -> Iterator[tuple[int, NDArray[np.float32] | DataError]]:
    for number, sound in enumerate(sounds):
        try:
            for window in sound:
                yield number, window
        except DataError as error:
            yield number, error


def _mean(total: NDArray[np.float64] | None, held: int, *, fault: DataError | None) -> Vector | DataError:
    if fault is not None:
        return fault
    assert total is not None, "a sound without a sample is a fault"
    return (total / held).astype(np.float32)


def _run(network: torch.nn.Module, windows: list[NDArray[np.float32]], *, device: torch.device) -> list[Vector]:
    """Run windows of one length together: no padding is heard."""
    told: dict[int, Vector] = {}
    for length in {len(window) for window in windows}:
        here = [at for at, window in enumerate(windows) if len(window) == length]
        waveform = torch.from_numpy(np.stack([windows[at] for at in here])).to(device)
        told |= dict(zip(here, network(waveform).float().cpu().numpy(), strict=True))
    return [told[at] for at in range(len(windows))]
