"""program: a trained network behind its mel -> one program on waveforms, by torch.export or ONNX, proven equal."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shards.bijection import uniforms
from shards.errors import DataError, UsageError
from trainers.mel import LogMel
from trainers.trained import Trained

TOLERANCE = 1e-4  # of a logit: what another order of float32 sums may make of it
MOST_ROWS = 4096
LEAST_FRAMES = 128  # of the example: where a stage of the network has one frame only, torch takes that for a rule
DOUBLINGS = 12


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A network that takes waveforms (batch, time): as it is, and as torch exported it.

    `time` is how many samples it takes: None for any from `least` on.
    """

    network: torch.nn.Module
    exported: Any
    example: torch.Tensor
    time: int | None
    least: int

    @property
    def tries(self) -> list[torch.Tensor]:
        """Make the waveforms by which it is checked: noise, a tone that dies away and silence, of several lengths."""
        length = self.example.shape[1]
        lengths = [length] if self.time else sorted({self.least, length, 2 * length + 1})
        device = self.example.device
        return [_sounds(rows, n).to(device) for n in lengths for rows in (1, 3)]


class Heard(torch.nn.Module):
    """The mel and the network as one, in a form that torch can export."""

    def __init__(self, mel: LogMel, model: torch.nn.Module) -> None:
        super().__init__()
        self.mel, self.model = mel, model

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.model(self.mel(waveform))


@torch.no_grad()
def export_program(trained: Trained, *, seconds: float) -> Program:
    """Export the network behind its mel, for any batch and any time if it can be had, else for `seconds` at a time.

    Raises:
        UsageError: torch can't export the network.
    """
    # a mel of its own: torch's window is a part of more memory, and would be written with a warning
    mel = LogMel(trained.config.mel, sample_rate=trained.sample_rate)
    for module in mel.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.clone(), persistent=False)
    network = Heard(mel.to(trained.device), trained.model).eval()
    crop = max(round(seconds * trained.sample_rate), trained.config.mel.n_fft)
    long = max(crop, LEAST_FRAMES * trained.config.mel.hop_length)
    dim, rows = torch.export.Dim, torch.export.Dim("batch", min=1, max=MOST_ROWS)
    faults: list[str] = []
    for time, length, kind in ((None, long, dim.DYNAMIC), (crop, crop, dim.STATIC)):
        example = _sounds(2, length).to(trained.device)
        try:
            exported = torch.export.export(network, (example,), dynamic_shapes=({0: rows, 1: kind},))
        except Exception as error:  # torch raises many kinds, by what it meets in the network
            faults.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
            continue
        least = time or _shortest(exported.module(), trained)
        return Program(network=network, exported=exported, example=example, time=time, least=least)
    raise UsageError(f"model {trained.config.model.name!r} can't be exported by torch ({faults[-1]}): take another")


def _shortest(program: torch.nn.Module, trained: Trained) -> int:
    """Find a length that the program takes: n_fft doubled so often that the network's picture isn't shrunk away."""
    lengths = [trained.config.mel.n_fft << doubled for doubled in range(DOUBLINGS)]
    for length in lengths:
        try:
            program(torch.zeros(1, length, device=trained.device))
        except (AssertionError, RuntimeError):  # a guard of the program's
            continue
        return length
    raise UsageError(f"model {trained.config.model.name!r} takes no sound of up to {lengths[-1]} samples: take another")


def write_pt2(program: Program, path: Path) -> str:
    """Write the program for torch, load it again and compare; return what there is to say of it.

    Raises:
        DataError: what was written gives other answers; it is removed.
    """
    torch.export.save(program.exported, str(path))
    loaded = torch.export.load(str(path)).module()
    worst = _compare(program, loaded, path=path)
    takes = f"any from {program.least}" if program.time is None else f"{program.time}, no other:"
    return f"{path.name}: batch any, time {takes} samples; equal to the network within {worst:.1e} (of {TOLERANCE:.0e})"


def write_onnx(program: Program, path: Path) -> str:
    """Write the program as ONNX, run it by onnxruntime and compare; return what there is to say of it.

    Raises:
        UsageError: torch can't export it so.
        DataError: what was written gives other answers; it is removed.
    """
    import onnxruntime

    try:
        made = torch.onnx.export(program.exported, (program.example,), dynamo=True, verbose=False)
        assert made is not None, "dynamo gives a program"
        made.save(str(path))
    except Exception as error:  # the exporter raises many kinds
        told = " ".join(str(error).split())[:160]
        raise UsageError(f"torch can't export this network as ONNX ({told}): leave --onnx, model.pt2 can be had") from (
            error
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(waveform: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(session.run(None, {name: waveform.cpu().numpy()})[0]))

    worst = _compare(program, run, path=path)
    return f"{path.name}: equal to the network within {worst:.1e} (of {TOLERANCE:.0e}), by onnxruntime"


@torch.no_grad()
def _compare(program: Program, other: Callable[[torch.Tensor], torch.Tensor], *, path: Path) -> float:
    """Return how far the answers differ at most; too far is a fault."""
    worst = 0.0
    for waveform in program.tries:
        apart = (program.network(waveform).cpu() - other(waveform).cpu()).abs().max()
        worst = max(worst, math.inf if apart.isnan() else float(apart))
    if worst > TOLERANCE:
        path.unlink()
        raise DataError(f"{path.name} gives other answers than the network, {worst:.1e} apart: report this")
    return worst


def _sounds(rows: int, length: int) -> torch.Tensor:
    """Make up to three sounds (rows, length): noise, a tone that dies away, silence."""
    time = np.arange(length)
    noise = (2 * uniforms(length, "export") - 1) * 0.1
    tone = 0.5 * np.sin(0.05 * time) * np.exp(-time / 4000)
    return torch.from_numpy(np.stack([noise, tone, np.zeros(length)])[:rows].astype(np.float32))
