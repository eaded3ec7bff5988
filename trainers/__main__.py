"""python -m trainers: the doors of the training room."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from shards.collector import uncollected
from shards.door import print_json, run_door
from shards.errors import DataError, UsageError
from trainers.config import PRESETS, TrainConfig, read_config
from trainers.run import open_run
from trainers.sweep import default_options, sweep


def train(config: TrainConfig) -> None:
    """Train a classifier: mel per batch on each rank's device, DDP over all ranks, checkpoints, a report."""
    with uncollected():
        from trainers.launch import launch

    launch(config)


def evaluate(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    *,
    data: str | None = None,
    split: str = "test",
    views: int | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Evaluate a run's best checkpoint on every row of a split.

    Args:
        run: the run's folder or URL, such as runs/demo.
        data: a pack; the run's own unless given.
        split: which split.
        views: crops spread evenly over each note whose answers are averaged, of the run's --crop-seconds; 0 hears whole
            notes; the run's own unless given.
        device: auto takes cuda, else mps, else cpu.
        json: print the numbers as one JSON object.
    """
    from trainers.answers import answer_tables, list_answers
    from trainers.finish import evaluate_run
    from trainers.metrics import summary
    from trainers.tables import terminal_table

    found = evaluate_run(run, data=data, split=split, device=device, views=views)
    if json:
        print_json({"run": run, "split": split, **summary(found), **list_answers(found)})
    else:
        Console().print(terminal_table([found]), *answer_tables(found))


RunPlace = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
AudioFiles = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES")]


def predict(
    run: RunPlace,
    files: AudioFiles = (),
    /,
    *,
    top: int = 3,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Tell what a run's network takes audio files for.

    Args:
        run: the run's folder or URL, such as runs/demo.
        files: audio of any rate and length (wav, flac, ogg, mp3), or folders of it.
        top: how many classes to tell of each, the likeliest first.
        device: auto takes cuda, else mps, else cpu.
        json: print one JSON object a file, as they come.
    """
    from trainers.predict import answers_table, complain, predict_files

    answers = []
    for answer in predict_files(run, files, top=top, device=device):
        answers.append(answer)
        if answer.fault is not None:
            complain(answer.file, answer.fault)
        if json:
            print_json(answer.to_json())
    good = [answer for answer in answers if answer.fault is None]
    if good and not json:
        Console().print(answers_table(good))
    if len(good) < len(answers):
        raise DataError(f"{len(answers) - len(good)} of {len(answers)} files can't be read: the others are answered")


def embed(
    run: RunPlace,
    files: AudioFiles = (),
    /,
    *,
    out: Path,
    data: str | None = None,
    split: str = "test",
    device: str = "auto",
) -> None:
    """Write what a run's network makes of sounds before its head, a row each, as parquet.

    Args:
        run: the run's folder or URL, such as runs/demo.
        files: audio files or folders of them; a pack's split unless given.
        out: the parquet file to write: key, and features as a fixed-size list of float32.
        data: a pack; the run's own unless given.
        split: which split.
        device: auto takes cuda, else mps, else cpu.
    """
    from trainers.embed import embed_files, embed_split

    if files and data:
        raise UsageError(f"take files or --data {data}, not both")
    if files:
        rows = embed_files(run, files, out=out, device=device)
    else:
        rows = embed_split(run, data=data, split=split, out=out, device=device)
    print(f"written: {out}, {rows:,} rows", file=sys.stderr)


def export(run: RunPlace, /, *, out: Path, onnx: bool = False, device: str = "cpu") -> None:
    """Write a run's network for use elsewhere: weights with timm's config, the mel, a program on waveforms, a card.

    Args:
        run: the run's folder or URL, such as runs/demo.
        out: the folder to make.
        onnx: write model.onnx too; needs the extra `onnx`.
        device: where the exported program is checked, and will run.
    """
    from trainers.export import export_run

    for line in export_run(run, out=out, onnx=onnx, device=device):
        print(line, file=sys.stderr)


def _default(args: list[str]) -> TrainConfig:
    """Read what sets the other options' defaults: the run to resume, --config, or --preset."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--config")
    parser.add_argument("--resume")
    parser.add_argument("--runs", default="runs")
    given, _ = parser.parse_known_args(args)
    if given.resume:
        own = read_config(open_run(given.runs, given.resume).config)
        return dataclasses.replace(own, name=None, runs=given.runs)  # where it was found: its folder may have moved
    if given.config:
        return dataclasses.replace(read_config(Path(given.config)), name=None, resume=None, config=given.config)
    return PRESETS.get(given.preset, PRESETS["base"])()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeekOptions:
    """Options of `python -m trainers peek`: what to look at, and a run's own."""

    out: Path
    """The page to write."""
    split: str = "train"
    """Which split."""
    rows: int = 8
    """How many notes of the batch to show."""
    cursor: int = 0
    """Where in the run the batch stands, in rows since it began."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TrainConfig)
    """The run: --data, --seed, --augment.* and so on, or --resume NAME for those of a run."""


def peek(options: PeekOptions) -> None:
    """Write a page that shows a batch as the network will see it, and hears it, before and after augmentation."""
    from trainers.peek import write_peek

    write_peek(options.train, out=options.out, split=options.split, rows=options.rows, cursor=options.cursor)
    print(f"written: {options.out}", file=sys.stderr)


VERBS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "embed": embed,
    "export": export,
    "peek": peek,
    "sweep": sweep,
}


def _peek_default(args: list[str]) -> PeekOptions:
    return PeekOptions(out=tyro.MISSING, train=_default(args))


def main(args: list[str] | None = None) -> int:
    """Run the door; `args` are the process's own unless given."""
    given = list(sys.argv[1:] if args is None else args)
    return run_door(
        "trainers",
        VERBS,
        given,
        defaults={
            "train": lambda: _default(given[1:]),
            "peek": lambda: _peek_default(given[1:]),
            "sweep": lambda: default_options(given[1:], train=_default),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
