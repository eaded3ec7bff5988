"""parts: an engine's steps, timed inside of its loop -> what a sample's time consists of.

The floor is the transforms alone: no engine of this kind can be cheaper. Loops follow phase_vocoder.play_frames and
wsola.play_frames line by line, with the processor's counter read between steps; that they give the same bits is checked
before anything is timed.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from benchmarks.harness import Section, figure
from streaming import vocoder, wsola
from streaming.fourier import lay_frames, lay_spectra, plan, transform
from streaming.frames import add_frame, place
from streaming.lanes import LANES
from streaming.layout import Engine, Layout, lay_out
from streaming.phases import lock_phases, make_work, pack_spectra
from streaming.scratch import borrow, cut_piece, flat, hann

ROUNDS = 25
FORWARD, INVERSE = "transform", "transform back"
VOCODER_STEPS = ("lay_frames", FORWARD, "lock_phases", "pack_spectra", "lay_spectra", INVERSE, "add_frame")
WSOLA_STEPS = ("lay_frames", FORWARD, "resize", "lay_spectra", INVERSE, "add_frame")


@intrinsic
def cycles(typing):  # noqa: ARG001
    """Read the processor's counter."""

    def lower(context, builder, sig, args):  # noqa: ARG001
        name, of = "llvm.readcyclecounter", ir.FunctionType(ir.IntType(64), [])
        return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, of, name), [])

    return types.int64(), lower


@njit
def lap(laps, step, since):
    """Count what passed since then as a step's; return the time that it is."""
    now = cycles()
    laps[step] += now - since
    return now


@njit(fastmath={"contract"}, error_model="numpy")
def vocoder_frames(piece, starts, bins, window_in, window_out, plan_in, plan_out, scratch, output, laps):
    """Do what phase_vocoder.play_frames does."""
    size_in, size_out, count = len(window_in), len(window_out), len(starts)
    step, hop = size_in // 3, size_out // 3
    most = max(size_in, size_out)
    rows, spectra, packed = scratch, scratch[4 * most :][: 4 * size_in], scratch[4 * most :][: 4 * size_out]
    spectra, packed = spectra.reshape((4, size_in)), packed.reshape((4, size_out))
    locked, work = np.zeros((4, 2, bins + LANES), np.float32), make_work(bins)
    now = cycles()
    for m in range(0, count, 4):
        for f in range(0, 4, 2):
            a, c = starts[min(m + f, count - 1)], starts[min(m + f + 1, count - 1)]
            lay_frames(piece, a, max(a - step, 0), c, max(c - step, 0), window_in, rows)
            now = lap(laps, 0, now)
            transform(rows, plan_in, spectra)
            now = lap(laps, 1, now)
            lock_phases(spectra[0], spectra[1], locked[f - 1], m + f == 0, work, locked[f])
            lock_phases(spectra[2], spectra[3], locked[f], False, work, locked[f + 1])
            now = lap(laps, 2, now)
        pack_spectra(locked[0], locked[1], bins, packed[0], packed[1])
        pack_spectra(locked[2], locked[3], bins, packed[2], packed[3])
        now = lap(laps, 3, now)
        lay_spectra(packed, rows)
        now = lap(laps, 4, now)
        transform(rows, plan_out, packed)
        now = lap(laps, 5, now)
        for f in range(4):
            add_frame(packed[f ^ 1], window_out, (m + f - 2) * hop, output)
        now = lap(laps, 6, now)


@njit(fastmath={"contract"}, error_model="numpy")
def wsola_frames(piece, starts, bins, window, gain, plan_in, plan_out, scratch, output, laps):
    """Do what wsola.play_frames does."""
    size_in, size_out, count = len(window), len(gain), len(starts)
    rows, spectra, resized = scratch, scratch[len(scratch) // 3 :], scratch[2 * len(scratch) // 3 :]
    spectra, resized = spectra[: 4 * size_in].reshape((4, size_in)), resized[: 4 * size_out].reshape((4, size_out))
    now = cycles()
    for m in range(0, count, 4):
        b, c, d = min(m + 1, count - 1), min(m + 2, count - 1), min(m + 3, count - 1)
        lay_frames(piece, starts[m], starts[b], starts[c], starts[d], window, rows)
        now = lap(laps, 0, now)
        transform(rows, plan_in, spectra)
        now = lap(laps, 1, now)
        wsola.resize(spectra, bins, resized)
        now = lap(laps, 2, now)
        lay_spectra(resized, rows)
        now = lap(laps, 3, now)
        transform(rows, plan_out, resized)
        now = lap(laps, 4, now)
        for f in range(4):
            add_frame(resized[f ^ 1], gain, (m + f - 1) * (size_out // 2), output)
        now = lap(laps, 5, now)


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

    def split(self, names: Sequence[str], counted: np.ndarray) -> None:
        """Share what passed since the last lap out as the counter tells."""
        passed = time.perf_counter() - self._last
        self.seconds |= {name: passed * one / counted.sum() for name, one in zip(names, counted, strict=True)}
        self._last = time.perf_counter()


def vocoder_steps(waveform: np.ndarray, layout: Layout, output: np.ndarray) -> dict[str, float]:
    """Render by the vocoder; return each step's seconds."""
    laps, counted = Laps(), np.zeros(len(VOCODER_STEPS), np.int64)
    piece = cut_piece(waveform, layout.first, layout.last)
    laps.lap("cut_piece")
    starts, _ = place(piece, layout)
    laps.lap("place")
    size_in, size_out = layout.overlap * layout.step, layout.overlap * layout.hop
    window_in, window = hann(size_in), hann(size_out, gain=0.5 / size_in / (0.375 * layout.overlap))
    scratch, plans = borrow(8 * max(size_in, size_out)), (plan(size_in), plan(size_out))
    output[:] = 0
    laps.lap("plans, windows")
    vocoder_frames(piece, starts, layout.bins, window_in, window, *plans, scratch, output, counted)
    laps.split(VOCODER_STEPS, counted)
    return laps.seconds


def wsola_steps(waveform: np.ndarray, layout: Layout, output: np.ndarray) -> dict[str, float]:
    """Render by wsola; return each step's seconds."""
    laps, counted = Laps(), np.zeros(len(WSOLA_STEPS), np.int64)
    piece = cut_piece(waveform, layout.first, layout.last)
    laps.lap("cut_piece")
    starts, free = place(piece, layout)
    laps.lap("place")
    wsola.move_frames(piece, layout.step, starts, free)
    laps.lap("move_frames")
    size_in, size_out = layout.overlap * layout.step, layout.overlap * layout.hop
    window, gain = hann(size_in), flat(size_out, 1 / size_in)
    scratch, plans = borrow(12 * max(size_in, size_out)), (plan(size_in), plan(size_out))
    output[:] = 0
    laps.lap("plans, windows")
    wsola_frames(piece, starts, layout.bins, window, gain, *plans, scratch, output, counted)
    laps.split(WSOLA_STEPS, counted)
    return laps.seconds


@njit
def repeat(rows, plan_in, spectra, forward, plan_out, packed, back):
    """Transform, and transform back, that many times."""
    for _ in range(forward):
        transform(rows, plan_in, spectra)
    for _ in range(back):
        transform(rows, plan_out, packed)


def transforms(layout: Layout, *, engine: Engine) -> float:
    """Return the seconds of a sample's transforms with nothing between them: the floor."""
    size_in, size_out, fours = layout.overlap * layout.step, layout.overlap * layout.hop, -(-layout.frames // 4)
    most = max(size_in, size_out)
    scratch = borrow(8 * most)
    scratch[: 4 * most] = 0
    spectra, packed = (scratch[4 * most :][: 4 * size].reshape(4, size) for size in (size_in, size_out))
    plans, forward = (plan(size_in), plan(size_out)), (2 if engine == "vocoder" else 1) * fours
    started = time.perf_counter()
    repeat(scratch, plans[0], spectra, forward, plans[1], packed, fours)
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
        transforms(layout, engine=engine)
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
    rows = found | {"rest: layout, check": rest, "whole": whole, "floor: the transforms alone": floor}
    return Section(
        title=f"Part by part, {engine}",
        claim=f"The same draws, step by step, {ROUNDS} rounds in turn with the whole and with the transforms alone; "
        "wall time on one core, inside of the loop over frames by the processor's counter. Rest is the whole less its "
        "steps.",
        columns=("step", "us a sample", "share"),
        rows=[(name, figure(1e6 * one), f"{100 * one / whole:.0f} %") for name, one in rows.items()],
        summary=f"{engine} takes {1e6 * whole:.0f} us, {whole / floor:.1f} times its transforms' {1e6 * floor:.0f}.",
    )
