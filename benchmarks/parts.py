"""parts: an engine's steps, called one by one on the draws of benchmarks.augment -> what a sample's time consists of.

The floor is the transforms alone: no engine of this kind can be cheaper. Steps follow vocoder._render_piece and
wsola.render_piece line by line; that they give the same bits is checked before anything is timed.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.harness import Section, figure
from streaming import vocoder, wsola
from streaming.frames import add_frames, add_pairs, cut_pairs, place
from streaming.layout import Engine, Layout, lay_out
from streaming.phases import lock_phases
from streaming.scratch import as_floats, cut_piece, hann, workspace

ROUNDS = 25
FORWARD, INVERSE = "forward FFT", "inverse FFT"


class Laps:
    """Splits time into named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()  # steps take microseconds: too short for the processor's clock

    def lap(self, name: str) -> None:
        """Count what passed since the last lap as `name`'s."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = time.perf_counter()

    def skip(self) -> None:
        """Count what passed since the last lap as nobody's."""
        self._last = time.perf_counter()


def vocoder_steps(waveform: np.ndarray, layout: Layout, output: np.ndarray) -> dict[str, float]:
    """Render by the vocoder; return each step's seconds."""
    laps = Laps()
    piece = cut_piece(waveform, layout.first, layout.last)
    laps.lap("cut_piece")
    starts, _ = place(piece, layout)
    laps.lap("place")
    size_in, size_out = layout.overlap * layout.step, layout.overlap * layout.hop
    before, state = np.maximum(starts - layout.step, 0), np.empty((2, layout.bins), np.float32)
    window_in, window = hann(size_in), hann(size_out, gain=0.5 / size_in / (0.375 * layout.overlap))
    output[:] = 0
    for m in range(0, len(starts), vocoder.FRAMES):
        some = starts[m : m + vocoder.FRAMES]
        frames, locked = workspace(len(some), size_in, len(some), size_out // 2 + 1)
        laps.skip()
        cut_pairs(piece, some, before[m : m + vocoder.FRAMES], window_in, frames.floats)
        laps.lap("cut_pairs")
        spectra = torch.fft.fft(frames.tensor)
        laps.lap(FORWARD)
        lock_phases(as_floats(spectra), state, m == 0, locked.floats)
        laps.lap("lock_phases")
        grains = torch.fft.irfft(locked.tensor, n=size_out, norm="forward").numpy()
        laps.lap(INVERSE)
        add_frames(grains, window, layout.hop, (m + 1 - layout.overlap) * layout.hop, output)
        laps.lap("add_frames")
    return laps.seconds


def wsola_steps(waveform: np.ndarray, layout: Layout, output: np.ndarray) -> dict[str, float]:
    """Render by wsola; return each step's seconds."""
    laps = Laps()
    piece = cut_piece(waveform, layout.first, layout.last)
    laps.lap("cut_piece")
    starts, free = place(piece, layout)
    laps.lap("place")
    wsola.move_frames(piece, layout.step, starts, free)
    laps.lap("move_frames")
    size_in, size_out = layout.overlap * layout.step, layout.overlap * layout.hop
    (even, odd), window_in = wsola.pair(starts), hann(size_in)
    output[:] = 0
    for m in range(0, len(even), wsola.PAIRS):
        some = len(even[m : m + wsola.PAIRS])
        frames, resized = workspace(some, size_in, some, size_out)
        laps.skip()
        cut_pairs(piece, even[m : m + wsola.PAIRS], odd[m : m + wsola.PAIRS], window_in, frames.floats)
        laps.lap("cut_pairs")
        spectra = torch.fft.fft(frames.tensor)
        laps.lap(FORWARD)
        wsola.resize(as_floats(spectra), layout.bins, resized.floats)
        laps.lap("resize")
        grains = torch.fft.ifft(resized.tensor, norm="forward")
        laps.lap(INVERSE)
        at = (2 * m + 1 - layout.overlap) * layout.hop
        add_pairs(as_floats(grains), np.float32(1 / size_in), layout.hop, at, output)
        laps.lap("add_pairs")
    return laps.seconds


def transforms(layout: Layout, *, engine: Engine) -> float:
    """Return the seconds of a sample's transforms with nothing between them: the floor."""
    size_in, size_out = layout.overlap * layout.step, layout.overlap * layout.hop
    count, most = layout.frames, vocoder.FRAMES
    if engine == "wsola":
        count, most = -(-count // 2), wsola.PAIRS
    chunks = [min(most, count - m) for m in range(0, count, most)]
    wide = size_out // 2 + 1 if engine == "vocoder" else size_out
    works = [workspace(some, size_in, some, wide) for some in chunks]
    started = time.perf_counter()
    for frames, changed in works:
        torch.fft.fft(frames.tensor)
        if engine == "vocoder":
            torch.fft.irfft(changed.tensor, n=size_out, norm="forward")
        else:
            torch.fft.ifft(changed.tensor, norm="forward")
    return time.perf_counter() - started


STEPS: dict[str, Callable[[np.ndarray, Layout, np.ndarray], dict[str, float]]] = {
    "vocoder": vocoder_steps,
    "wsola": wsola_steps,
}


def window_of(draw: dict) -> dict:
    """Turn a draw into render's arguments."""
    return {
        "pitch_ratio": 2 ** (draw["semitones"] / 12), "speed": draw["speed"], "start": draw["start"],
        "length": draw["length"],
    }  # fmt: skip


def measure_parts(waveforms: np.ndarray, draws: Sequence[dict], *, engine: Engine) -> dict[str, float]:
    """Return the seconds of a sample's steps, of the whole and of the floor: medians a draw, averaged over draws."""
    found = {}
    for draw in draws:
        waveform, window, output = waveforms[draw["note"]], window_of(draw), np.empty(draw["length"], np.float32)
        layout, rounds = lay_out(**window, band=1.0, engine=engine), []
        STEPS[engine](waveform, layout, output)
        assert np.array_equal(output, vocoder.render(waveform, **window, engine=engine)[0]), "steps aren't the engine's"
        for _ in range(ROUNDS):
            started = time.perf_counter()
            vocoder.render(waveform, **window, engine=engine, out=output)
            whole = time.perf_counter() - started
            steps = STEPS[engine](waveform, layout, output)
            rounds.append(steps | {"whole": whole, "floor": transforms(layout, engine=engine)})
        for name in rounds[0]:
            found.setdefault(name, []).append(np.median([one[name] for one in rounds]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def section(waveforms: np.ndarray, draws: Sequence[dict], *, engine: Engine) -> Section:
    """Tell what an engine's time consists of, against its transforms alone."""
    found = measure_parts(waveforms, draws, engine=engine)
    whole, floor = found.pop("whole"), found.pop("floor")
    rest = whole - sum(found.values())
    rows = found | {"rest: layout, buffers, check": rest, "whole": whole, "floor: the FFTs alone": floor}
    return Section(
        title=f"Part by part, {engine}",
        claim=f"The same draws, step by step, {ROUNDS} rounds in turn with the whole and with the transforms alone; "
        "wall time on one core. Rest is the whole less its steps, and also what calls between them cost.",
        columns=("step", "us a sample", "share"),
        rows=[(name, figure(1e6 * one), f"{100 * one / whole:.0f} %") for name, one in rows.items()],
        summary=f"{engine} takes {1e6 * whole:.0f} us, {whole / floor:.1f} times its transforms' {1e6 * floor:.0f}.",
    )
