"""report_sounds: a batch looked at -> a few training notes for the report, as they are stored and as the network hears
them."""

import base64
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from shards import audio
from trainers import figures

if TYPE_CHECKING:  # it imports torch, which a page needn't
    from trainers.peek_page import Peek, Sound

NUM_HEARD = 4
SOUND_SECONDS = 5.0  # of each sound: eight sounds are then 1.7 MB of text at most, at 16 kHz, and half is usual


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One sound: its picture, its player's address, its seconds, and the seconds kept where it had to be cut."""

    picture: Markup
    sound: str
    seconds: float
    kept: float | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Heard:
    """A training note before and after augmentation, and the draws between them in words."""

    key: str
    label: str
    draws: tuple[tuple[str, str], ...]
    before: Side
    after: Side


def hear(peek: "Peek") -> tuple[Heard, ...]:
    """Draw the rows of a batch that could be read; keys and labels are foreign text, and stay as they are."""
    rate = peek.sample_rate
    return tuple(
        Heard(
            key=row.key,
            label=row.label,
            draws=tuple(one for one in row.draws if one[0] != "pack"),
            before=_side(row.before, sample_rate=rate),
            after=_side(row.after, sample_rate=rate),
        )
        for row in peek.rows
        if row.before is not None and not row.masked
    )


def _side(sound: "Sound", *, sample_rate: int) -> Side:
    wave = np.nan_to_num(sound.waveform)
    most = round(SOUND_SECONDS * sample_rate)
    return Side(
        picture=figures.note(wave, sample_rate=sample_rate, mel=sound.mel),
        sound=sound_uri(wave[:most], sample_rate=sample_rate),
        seconds=len(wave) / sample_rate,
        kept=SOUND_SECONDS if len(wave) > most else None,
    )


def sound_uri(waveform: NDArray[np.float32], *, sample_rate: int) -> str:
    """Write a waveform (length,) in [-1, 1] as the address of a player: FLAC, about half of a WAV file's bytes."""
    pcm = np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)
    data = audio.encode(pcm, sample_rate=sample_rate, codec="flac")
    return "data:audio/flac;base64," + base64.b64encode(data).decode("ascii")
