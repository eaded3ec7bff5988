"""pictures: a split's confusion, a batch's mels -> small images (height, width, 3) for loggers. Nothing of pyplot's.

matplotlib is imported where it draws: a run's first step needn't wait for it.
"""

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from trainers import metrics
from trainers.metrics import Predictions

Image = NDArray[np.uint8]
MOST_NAMED = 30  # classes whose names find room
MOST_MELS, GAP = 8, 2


def confusion_image(predictions: Predictions) -> Image:
    """Draw for each target (rows) how its rows were answered (columns), as shares of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = metrics.confusion(predictions)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5.5), dpi=80, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    drawn = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    figure.colorbar(drawn, ax=axes)
    axes.set(xlabel="predicted", ylabel="target")
    if len(predictions.classes) <= MOST_NAMED:
        places = range(len(predictions.classes))
        # names are foreign text: a dollar begins no formula
        axes.set_xticks(places, predictions.classes, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(places, predictions.classes, fontsize=8, parse_math=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names in a script that the font lacks are boxes
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def mels_image(mels: NDArray[np.float32]) -> Image:
    """Lay up to 8 mels (rows, n_mels, frames) of 0..1 side by side, two in a row, low bands below."""
    from matplotlib import colormaps

    shown = mels[:MOST_MELS, ::-1]
    rows, bands, frames = shown.shape
    across = min(2, rows)
    down = math.ceil(rows / across)
    sheet = np.zeros((down * (bands + GAP) - GAP, across * (frames + GAP) - GAP), np.float32)
    for at, mel in enumerate(shown):
        top, left = at // across * (bands + GAP), at % across * (frames + GAP)
        sheet[top : top + bands, left : left + frames] = mel
    return (colormaps["magma"](sheet)[..., :3] * 255).astype(np.uint8)
