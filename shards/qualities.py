"""qualities: a note's samples -> those of NSynth's ten qualities that can be measured from one note."""

import numpy as np
from numpy.typing import NDArray

from shards.fields import LENGTH, QUALITIES, SAMPLE_RATE

HOLD_SECONDS = 3.0


def qualities(samples: NDArray[np.int16]) -> list[int]:
    """Measure the five of NSynth's ten qualities that a lone note shows; thresholds are ours, and the rest stay 0.

    bright and dark: a fifth of the power above 3 kHz, or less than a hundredth above 1 kHz. fast_decay: 24 dB down
    before the note is let go. long_release: less than 24 dB down half a second after. percussive: at its loudest within
    30 ms and 6 dB down 200 ms later.
    """
    heard = samples.astype(np.float64) / 32768
    power = np.square(np.abs(np.fft.rfft(heard)))
    bin_hz = SAMPLE_RATE / LENGTH
    high, above = (power[round(hz / bin_hz) :].sum() / max(power.sum(), 1e-12) for hz in (3000, 1000))
    level = np.sqrt(np.square(heard).reshape(-1, SAMPLE_RATE // 50).mean(axis=1)) + 1e-9  # of each 20 ms
    level_db = 20 * np.log10(level)
    let_go, onset = round(HOLD_SECONDS * 50), int(np.argmax(level_db > level_db.max() - 40))
    first, held = level_db[onset : onset + 3].max(), level_db[let_go - 5 : let_go].mean()
    shown = {
        "bright": high >= 0.2,
        "dark": above < 0.01,
        "fast_decay": held < level_db.max() - 24,
        "long_release": held > level_db.max() - 48 and level_db[let_go + 23 : let_go + 28].mean() > held - 24,
        "percussive": first > level_db.max() - 0.5 and level_db[onset + 10 : onset + 13].mean() < first - 6,
    }
    return [int(shown.get(quality, False)) for quality in QUALITIES]
