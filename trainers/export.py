"""export: a run -> a folder for use elsewhere: weights with timm's config, the mel, programs on waveforms, a card.

    OUT/model.safetensors, config.json   timm.create_model("local-dir:OUT", pretrained=True)    networks of timm's only
    OUT/mel.json                         all of the mel, the sample rate, the classes
    OUT/model.pt2, model.onnx            waveforms (batch, time) at that rate -> logits (batch, classes), mel inside
    OUT/README.md                        a model card, its licence left to you

Each program is loaded again and asked what the network itself is asked; the folder appears by a rename, with equals
only.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from shards.errors import UsageError
from shards.format import sync_folder
from trainers.journal import read_records
from trainers.program import Program, export_program, write_onnx, write_pt2
from trainers.trained import Trained, open_trained

MEL, WEIGHTS, CONFIG, PT2, ONNX, CARD = (
    "mel.json", "model.safetensors", "config.json", "model.pt2", "model.onnx", "README.md"
)  # fmt: skip


def export_run(place: str, *, out: Path, onnx: bool, device: str) -> Iterator[str]:
    """Write the best checkpoint of the run at PLACE to the folder `out`; yield a line on each thing that is there.

    Raises:
        UsageError: there is no such run or device, `out` is there already, an extra isn't installed, or the network
            can't be exported.
        DataError: the run has no whole checkpoint, or a program gives other answers than the network.
    """
    if out.exists():
        raise UsageError(f"out {out} exists: give a folder that doesn't")
    trained = open_trained(place, device=device)
    if onnx:
        _check_onnx(trained)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        fresh = Path(scratch) / out.name
        fresh.mkdir()
        program = export_program(trained, seconds=trained.config.crop_seconds)
        lines = [_write_parts(trained, fresh), write_pt2(program, fresh / PT2)]
        if onnx:
            lines.append(write_onnx(program, fresh / ONNX))
        (fresh / MEL).write_text(json.dumps(_describe_mel(trained, program), indent=2))
        (fresh / CARD).write_text(_card(trained, program, has_onnx=onnx))
        fresh.rename(out)
        sync_folder(out.parent)
    yield from filter(None, lines)
    yield f"written: {out}"


def _check_onnx(trained: Trained) -> None:
    if trained.config.model.is_own:
        raise UsageError(f"model {trained.config.model.name!r} is your own, and goes into model.pt2 only: leave --onnx")
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'notestream[onnx]', or leave --onnx") from error


def _write_parts(trained: Trained, folder: Path) -> str | None:
    """Write weights and timm's config, which load as equals; nothing for a network of the user's own."""
    if trained.config.model.is_own:
        return f"model {trained.config.model.name!r} is your own: {PT2} only, no {WEIGHTS} and no {CONFIG}"
    from timm.models import save_for_hf

    count, mel = len(trained.classes), trained.config.mel
    frames = round(trained.config.crop_seconds * trained.sample_rate) // mel.hop_length + 1
    # what timm would tell of the pictures: the log-mel comes as the network wants it
    pictures = {"input_size": (1, mel.n_mels, frames), "mean": (0.0,), "std": (1.0,)}
    pictures |= {"tag": None, "license": None}  # these would be those of timm's weights, and aren't ours to tell
    save_for_hf(
        trained.model.cpu(),
        str(folder),
        model_config={"label_names": list(trained.classes), "num_classes": count, "pretrained_cfg": pictures},
        model_args={**trained.config.model.arguments, "num_classes": count},
        safe_serialization=True,
    )
    trained.model.to(trained.device)
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody else read
    return None


def _describe_mel(trained: Trained, program: Program) -> dict[str, Any]:
    return {
        "sample_rate": trained.sample_rate,
        "mel": dataclasses.asdict(trained.config.mel),
        "label": trained.config.label,
        "classes": list(trained.classes),
        "answer": "sigmoid" if trained.task.many else "softmax",
        "window_samples": trained.window,
        "program": {"input": "waveform", "output": "logits", "time": program.time, "least_time": program.least},
    }


def _card(trained: Trained, program: Program, *, has_onnx: bool) -> str:
    environment = json.loads(trained.run.environment.read_bytes())
    records = [record for record in read_records(trained.run.metrics) if record.get("checkpoint") == "best"]
    scores = [
        (split, record[f"{split}/rows"], record[f"{split}/accuracy"], record.get(f"{split}/macro_accuracy"))
        for record in records
        for split in ("valid", "test")
        if isinstance(record.get(f"{split}/accuracy"), float)
    ]
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("trainers", "."), autoescape=False, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    ).get_template("export.md.j2")  # fmt: skip
    return page.render(
        trained=trained, config=trained.config, program=program, environment=environment, scores=scores,
        timms=not trained.config.model.is_own, has_onnx=has_onnx, cursor=trained.state["cursor"],
    )  # fmt: skip
