"""lines: a record of a run -> the line of its log that people read. What can't be told is a dash."""

from collections.abc import Mapping
from typing import Any

RIGHT = {"accuracy": "accuracy", "label_accuracy": "labels right"}  # of rows; of all classes of all rows
ABSENT = "-"


def step_line(record: Mapping[str, Any], *, steps: int, epochs: int) -> str:
    """Tell of the steps since the last line."""
    name = next(name for name in RIGHT if f"train/{name}" in record)
    return (
        f"step {record['step']:>6,}/{steps:,}  epoch {record['epoch']:6.2f}/{epochs}"
        f"  loss {record['train/loss']:7.4f}  {RIGHT[name]} {percent(record[f'train/{name}'])} %"
        f"  {record['train/samples_per_second']:7,.0f} samples/s  wait {percent(record['train/wait_share'], 4)} %"
        f"  lr {record['train/lr']:.1e}  memory {record['train/memory_bytes'] / 1e9:.2f} GB"
    )


def validation_line(told: Mapping[str, Any], *, epoch: float) -> str:
    """Tell of a validation: accuracies where a row has one class, ranks where it has any number."""
    found = {name.partition("/")[2]: value for name, value in told.items()}
    begin = f"epoch {epoch:5.2f}  valid loss {number(found['loss'])}"
    if "map" in found:
        return (
            f"{begin}  mAP {percent(found['map'])} %  AUC {percent(found['macro_auc'])} %"
            f" of {found['classes_scored']} classes  labels right {percent(found['label_accuracy'])} %"
        )
    pitch = ""
    if "chroma_accuracy" in found:
        pitch = f"  semitone {percent(found['semitone_accuracy'])} %  chroma {percent(found['chroma_accuracy'])} %"
    return (
        f"{begin}  accuracy {percent(found['accuracy'])} %  macro {percent(found['macro_accuracy'])} %"
        f" of {found['classes_present']} classes{pitch}"
    )


def percent(share: float | None, width: int = 5) -> str:
    """Write a share as a percentage."""
    return f"{ABSENT:>{width}}" if share is None else f"{100 * share:{width}.1f}"


def number(value: float | None) -> str:
    """Write a loss."""
    return f"{ABSENT:>7}" if value is None else f"{value:7.4f}"
