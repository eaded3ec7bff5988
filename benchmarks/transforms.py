"""transforms: a crop, its draw -> the crop as another microphone or another player might give it, for --transforms.

What tells fonts apart, and not families: the colour of the recording, and how fast its notes fade.
"""

import numpy as np

from streaming.draws import Draw
from streaming.transforms import Waveform

KNOTS_HZ = (60.0, 250.0, 1000.0, 4000.0, 8000.0)
COLOUR_DB, FADE_DB = 9.0, 12.0


def colour(waveform: Waveform, draw: Draw) -> Waveform:
    """Raise or lower bands by up to 9 dB, along straight lines over log frequency between five knots."""
    gains_db = COLOUR_DB * (2 * draw.uniforms(len(KNOTS_HZ), "colour") - 1)
    spectrum = np.fft.rfft(waveform)
    hertz = np.maximum(np.fft.rfftfreq(len(waveform), 1 / draw.sample_rate), KNOTS_HZ[0])
    spectrum *= 10 ** (np.interp(np.log(hertz), np.log(KNOTS_HZ), gains_db) / 20)
    return np.fft.irfft(spectrum, len(waveform)).astype(np.float32)


def fade(waveform: Waveform, draw: Draw) -> Waveform:
    """Let the crop swell or fade, by up to 12 dB from its beginning to its end."""
    end_db = FADE_DB * (2 * draw.uniforms(1, "fade")[0] - 1)
    return waveform * (10 ** (np.linspace(0, end_db, len(waveform)) / 20)).astype(np.float32)
