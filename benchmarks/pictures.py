"""Draw docs/pictures: one note before and after each engine, as spectrograms. No figures: benchmarks.quality has them.

Run: python -m benchmarks.pictures
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks import harness
from shards import render, soundfont
from tests.streaming import sounds
from tests.streaming.sounds import RATE, Crop

FOLDER = harness.ROOT / "docs" / "pictures"
PROGRAM, PITCH, VELOCITY = 24, 57, 100  # a nylon guitar: a sharp onset, and partials that decay one by one
MOVES = (("4 semitones up", 4, 1.0), ("4 semitones down", -4, 1.0), ("speed 0.8", 0, 0.8))
SECONDS, TOP_HZ, FLOOR_DB = 4.0, 4000, -70  # released after 3 s, or 3.75 at speed 0.8
N_FFT, HOP = 1024, 128


def load_note() -> np.ndarray:
    """Render the note that is drawn, (time,) float32."""
    font = soundfont.read(render.font_path(None))
    note = render.note(font, program=PROGRAM, pitch=PITCH, velocity=VELOCITY, seed=0)
    assert note is not None
    return note.astype(np.float32) / np.float32(32_768)


def draw(engine: str, note: np.ndarray, path: Path) -> None:
    """Draw the note, and what an engine makes of it, beside each other."""
    start = -RATE // 10  # silence before the onset shows what is heard too early
    panels = [("before", np.pad(note, (-start, 0)))]
    for title, semitones, speed in MOVES:
        crop = Crop(waveform=note, semitones=semitones, speed=speed, start=start, length=round(SECONDS * RATE))
        panels.append((title, sounds.play(crop, engine=engine)[0]))
    figure = Figure(figsize=(9, 2.6), dpi=80, layout="constrained")
    for axes, (title, waveform) in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        _draw_panel(axes, waveform[: round(SECONDS * RATE)], title=title)
    figure.axes[0].set_ylabel("kHz")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    picture.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)  # 64 colours: half the bytes


def _draw_panel(axes: Axes, waveform: np.ndarray, *, title: str) -> None:
    frames = np.lib.stride_tricks.sliding_window_view(waveform, N_FFT)[::HOP] * np.hanning(N_FFT)
    magnitude = np.abs(np.fft.rfft(frames))[:, : TOP_HZ * N_FFT // RATE].T
    level = 20 * np.log10(np.maximum(magnitude / magnitude.max(), 1e-6))
    axes.imshow(
        level, origin="lower", aspect="auto", cmap="magma", vmin=FLOOR_DB, vmax=0, interpolation="antialiased",
        extent=(0, len(waveform) / RATE, 0, TOP_HZ / 1000),
    )  # fmt: skip
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("s")


def main() -> None:
    """Draw all engines."""
    harness.one_thread()
    FOLDER.mkdir(parents=True, exist_ok=True)
    note = load_note()
    for engine in sounds.ENGINES:
        draw(engine, note, FOLDER / f"{engine}.png")


if __name__ == "__main__":
    main()
