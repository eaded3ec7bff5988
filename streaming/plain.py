"""plain: what the two engines do, by torch alone, frame by frame. Slow.

Tests hold the engines against it, and it serves where numba can't be had.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from streaming.frames import AFTER, BEFORE, BLOCK, FLOOR, PER_BEFORE
from streaming.layout import SEARCH, Layout


def render(piece: NDArray[np.float32], layout: Layout, output: NDArray[np.float32]) -> None:
    """Write the window that a layout names of its piece: (last - first,) -> (length,)."""
    waveform = torch.from_numpy(piece)
    starts, free = _place(waveform, layout)
    size_in, size_out = layout.overlap * layout.step, layout.overlap * layout.hop
    if layout.overlap == 2:
        starts = _move(waveform, starts, free, layout.step)
    window = torch.hann_window(size_in)
    spectra = torch.stack([torch.fft.rfft(waveform[at : at + size_in] * window) for at in starts])
    if layout.overlap == 3:
        earlier = [max(0, at - layout.step) for at in starts]
        before = torch.stack([torch.fft.rfft(waveform[at : at + size_in] * window) for at in earlier])
        spectra = _lock(spectra[:, : layout.bins], before[:, : layout.bins])
    kept = torch.zeros(len(starts), size_out // 2 + 1, dtype=torch.complex64)
    kept[:, : layout.bins] = spectra[:, : layout.bins]
    kept[:, 0] = kept[:, 0].real.to(torch.complex64)
    grains = torch.fft.irfft(kept, n=size_out) * (layout.hop / layout.step)
    if layout.overlap == 3:
        grains = grains * torch.hann_window(size_out) / 1.125
    whole = torch.zeros(size_out + layout.hop * len(starts))
    for m, grain in enumerate(grains):
        whole[m * layout.hop : m * layout.hop + size_out] += grain
    begin = (layout.overlap - 1) * layout.hop
    output[:] = whole[begin : begin + len(output)].numpy()


def _place(waveform: torch.Tensor, layout: Layout) -> tuple[list[int], list[bool]]:
    half_in, half_out = layout.overlap * layout.step / 2, layout.overlap * layout.hop / 2
    begin, onsets = layout.origin - layout.first, _onsets(waveform, layout)
    starts, free = [], []
    for m in range(layout.frames):
        played = (m + 1 - layout.overlap / 2) * layout.hop
        centre, held = begin + played * layout.speed, False
        for onset in onsets:
            away = played - (onset - begin) / layout.speed
            if abs(away) < half_out or layout.speed * abs(away) < half_in:
                moved = layout.ratio * abs(away) if abs(away) < half_out else half_in
                centre, held = onset + math.copysign(moved, away), True
        starts.append(round(centre) - layout.overlap * layout.step // 2)
        free.append(not held)
    return starts, free


def _onsets(waveform: torch.Tensor, layout: Layout) -> list[int]:
    energy = waveform[: len(waveform) // BLOCK * BLOCK].reshape(-1, BLOCK).square().mean(dim=1)
    gap = math.ceil(layout.overlap * max(layout.step, layout.hop * layout.speed))
    found, b = [], BEFORE
    while b + AFTER <= len(energy):
        threshold = float(PER_BEFORE) * float(energy[b - BEFORE : b].sum()) + float(FLOOR)
        if energy[b] > threshold and energy[b : b + AFTER].mean() > threshold:
            loud = waveform[b * BLOCK : (b + 1) * BLOCK - 1].square() >= threshold
            found.append(b * BLOCK + (int(loud.int().argmax()) if loud.any() else BLOCK - 1))
            b += gap // BLOCK + 2
        else:
            b += 1
    return found


def _move(waveform: torch.Tensor, starts: list[int], free: list[bool], step: int) -> list[int]:
    moved = starts[:1]
    for target, may in zip(starts[1:], free[1:], strict=True):
        follows = moved[-1] + step
        low, high = max(0, target - SEARCH), min(len(waveform) - step, target + SEARCH)
        if may and follows <= len(waveform) - step:
            candidates = waveform[low : high + step].unfold(0, step, 1)
            c = candidates @ waveform[follows : follows + step]
            moved.append(low + int((c * c.abs() / (candidates.square().sum(dim=1) + 1e-9)).argmax()))
        else:
            moved.append(target)
    return moved


def _lock(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    bins = now.shape[1]
    locked = [now[0]]
    for spectrum, earlier in zip(now[1:], before[1:], strict=True):
        power = spectrum.abs().square()
        p = torch.cat((power[1:3].flip(0), power, torch.zeros(2)))
        is_peak = (p[2:-2] >= p[:-4]) & (p[2:-2] >= p[1:-3]) & (p[2:-2] > p[3:-1]) & (p[2:-2] > p[4:])
        peaks = torch.nonzero(is_peak)[:, 0]
        if len(peaks):
            ends = (peaks[:-1] + peaks[1:] + 1) // 2  # a bin halfway goes with the upper
            nearest = peaks[torch.bucketize(torch.arange(bins), ends, right=True)]
            turn = locked[-1] * earlier.conj() + 1e-15
            locked.append(spectrum * (turn / turn.abs())[nearest])
        else:
            locked.append(spectrum)
    return torch.stack(locked)
