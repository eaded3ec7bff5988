"""peek_page: a Peek -> HTML. Waveforms as SVG, mels and sounds as data URIs, in the report's own style.

Keys, labels and class names are foreign text: they pass through jinja2 with autoescape on, and the page's policy
forbids scripts and addresses. It asks nothing of any network.
"""

import base64
import dataclasses
import importlib.resources
import io
import math
import re
from collections.abc import Iterable
from typing import Any, Literal

import jinja2
import matplotlib as mpl
import matplotlib.image
import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from shards import audio
from streaming.view import View
from trainers.options import MelConfig

TEMPLATE, LOOKS = "peek.html.j2", "report.html.j2"
SOUND_BUDGET = 900_000  # points of sound in all, 8 notes of 4 s and their crops: 2.4 MB of text at most, half is usual
MAX_COLUMNS = 400  # of a picture: a long note's stays light
COLOURS = "magma"
HERTZ = tuple(step * 10**power for power in range(1, 6) for step in (1, 2, 5))
LEAST_GAP = 0.09  # of a mel's height, from frequency to frequency: a line of text


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sound:
    """What there is to see and to hear: `waveform` (length,), `mel` (n_mels, frames) in 0..1.

    `first` to `last`, in seconds, is what counts of it: of a note its crop, of a crop what isn't padding. A mel may
    reach past the waveform's end.
    """

    waveform: NDArray[np.float32]
    mel: NDArray[np.float32]
    first: float
    last: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One row of the batch: what names its draws, these (`draws` in words), its note as stored, its crop.

    `name` is seed, epoch, pack, key and repeat; `rest` is what follows the note in its crop. `fault` says why there is
    no note; where the row is `masked` too, its crop is silence that counts for nothing.
    """

    key: str
    label: str
    view: View
    name: tuple[int, int, int, str, int]
    draws: tuple[tuple[str, str], ...]
    before: Sound | None
    after: Sound
    rest: Literal["padding", "repeated"]
    fault: str | None
    masked: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Peek:
    """All that the page tells: `batch_size` rows stand at `cursor`, the first of them in `rows`."""

    split: str
    cursor: int
    batch_size: int
    sample_rate: int
    mel: MelConfig
    rows: tuple[Row, ...]
    settings: tuple[tuple[str, str], ...]


def render_peek(peek: Peek) -> str:
    """Render the page as HTML, in the report's own style."""
    room = importlib.resources.files("trainers")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = re.search(r"<style>\n(.*?)</style>", room.joinpath(LOOKS).read_text("utf-8"), re.DOTALL)
    assert style is not None, "the report has a style sheet"
    sounds = [sound for row in peek.rows for sound in (row.before, row.after) if sound]
    most = max(peek.sample_rate, fair_share((len(sound.waveform) for sound in sounds), budget=SOUND_BUDGET))
    pictures = iter([_picture(sound, peek=peek, most=most) for sound in sounds])
    rows = [(row, next(pictures) if row.before else None, next(pictures)) for row in peek.rows]
    page = environment.from_string(room.joinpath(TEMPLATE).read_text("utf-8"))
    return page.render(peek=peek, rows=rows, style=Markup(style[1]), bands=bands(peek.mel), shades=_shades())


def fair_share(lengths: Iterable[int], *, budget: int) -> int:
    """Return the most of each that keeps them in a budget, if what the short ones don't need goes to the others."""
    share, left, lengths = 0, budget, sorted(lengths)
    for i, length in enumerate(lengths):
        share = left // (len(lengths) - i)
        if length > share:
            return share
        left -= length
    return max(share, lengths[-1])


def bands(mel: MelConfig) -> list[tuple[str, float]]:
    """Say at which height of a mel's picture, 0 below to 1 above, some frequencies lie."""
    low, high = _mels(mel.f_min), _mels(mel.f_max)
    found: list[tuple[str, float]] = []
    for hertz in reversed(HERTZ):
        # n + 2 points stand evenly on the mel scale; bands are centred on all but the outer two
        band = (_mels(hertz) - low) / (high - low) * (mel.n_mels + 1) - 1
        height = (band + 0.5) / mel.n_mels
        if 0 <= height <= 1 and (not found or found[-1][1] - height >= LEAST_GAP):
            found.append((f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz", height))
    return found


def _mels(hertz: float) -> float:
    """Put a frequency on torchaudio's mel scale, HTK's."""
    return 2595 * math.log10(1 + hertz / 700)


def _picture(sound: Sound, *, peek: Peek, most: int) -> dict[str, Any]:
    """Give what the page draws of a sound, places as shares of its width, and up to `most` points of it to hear."""
    wave, rate = np.nan_to_num(sound.waveform), peek.sample_rate
    seconds, hop = len(wave) / rate, peek.mel.hop_length / len(wave)
    middle = round((sound.first + sound.last) / 2 * rate)
    begin = max(0, min(middle - most // 2, len(wave) - most))  # what counts is to be heard, if not all is
    heard = wave[begin : begin + most]
    pcm = np.clip(np.round(heard * 32768), -32768, 32767).astype(np.int16)
    ticks = np.array(MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)).tick_values(0, seconds))
    return {
        "seconds": seconds,
        "outline": _outline(np.clip(wave, -1, 1)),
        "mel": _data_uri("image/png", _png(sound.mel)),
        "mel_left": -hop / 2,  # a frame is centred on its sample, the first one on sample 0
        "mel_width": sound.mel.shape[1] * hop,
        "sound": _data_uri("audio/flac", audio.encode(pcm, sample_rate=rate, codec="flac")),
        "heard": (begin / rate, (begin + len(heard)) / rate) if len(heard) < len(wave) else None,
        "peak": float(np.abs(wave).max()),
        "first": min(1.0, sound.first / seconds),
        "last": min(1.0, sound.last / seconds),
        "ticks": [(f"{tick:g}", tick / seconds) for tick in ticks.tolist() if 0 <= tick <= seconds],
    }


def _outline(waveform: NDArray[np.float32]) -> str:
    """Trace a waveform (length,) as an SVG path 1 wide, from -1 to 1: forth along its peaks, back along its dips."""
    starts = np.linspace(0, len(waveform), min(MAX_COLUMNS, len(waveform)), endpoint=False).astype(np.int64)
    high, low = np.maximum.reduceat(waveform, starts), np.minimum.reduceat(waveform, starts)
    x = np.append(starts / len(waveform), 1.0)
    y = np.concatenate([high, high[-1:], low[-1:], low[::-1]])
    points = zip(np.append(x, x[::-1]).tolist(), (-y).tolist(), strict=True)  # SVG's y goes down
    return "M" + "L".join(f"{across:.4g},{down:.3g}" for across, down in points) + "Z"


def _png(mel: NDArray[np.float32]) -> bytes:
    """Paint a mel (n_mels, frames) in 0..1, lowest band below; neighbouring frames give their loudest."""
    if mel.shape[1] > MAX_COLUMNS:
        starts = np.linspace(0, mel.shape[1], MAX_COLUMNS, endpoint=False).astype(np.int64)
        mel = np.maximum.reduceat(mel, starts, axis=1)
    out = io.BytesIO()
    matplotlib.image.imsave(out, np.nan_to_num(mel), cmap=COLOURS, vmin=0, vmax=1, origin="lower", format="png")
    return out.getvalue()


def _shades() -> str:
    """List a mel's colours from its floor to its maximum, as CSS has them."""
    return ", ".join(to_hex(mpl.colormaps[COLOURS](level)) for level in np.linspace(0, 1, 12).tolist())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode("ascii")
