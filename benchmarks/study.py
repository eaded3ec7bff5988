"""Does augmentation help on a font that was not heard? Trains on FluidR3's notes, is asked about TimGM6mb's too.

    render, pack ──> trials ──> DIR/trials.jsonl, a line each ──> docs/study.md, from what is there

A seed names a trial's notes and split, as well as its order, augmentation and first weights. Killed at any moment, or
ended by --minutes, it goes on where it was. With --tune it compares candidates by valid, and measures the best.

Run: python -m benchmarks.study --jobs 2             the arms of augmentation
     python -m benchmarks.study --jobs 2 --tune      then the candidates
     python -m benchmarks.study --minutes 0          the page alone
"""

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from benchmarks import fonts, harness
from benchmarks.arms import ARMS, at_length, candidates, finalists
from benchmarks.study_page import Setting, write_page
from benchmarks.trial import Flags, Told, Trial, make_in_process, make_trial, read_told, run_missing
from shards import programs, soundfont
from shards.format import write_whole
from shards.pack import pack
from shards.programs import SPLITS
from shards.render import font_path, render

FLUID = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")  # Debian's fluid-soundfont-gm
PAGE = harness.ROOT / "docs" / "study.md"


def main(args: list[str] | None = None) -> None:
    """Make what is missing, as long as there is time, then write the page from what is there."""
    given = _parse(args)
    setting = Setting(
        notes=given.notes, other_notes=given.other_notes, epochs=given.epochs, seeds=given.seeds,
        tuning_seeds=min(given.tuning_seeds, given.seeds),
    )  # fmt: skip
    until = time.monotonic() + 60 * given.minutes
    given.dir.mkdir(parents=True, exist_ok=True)
    lines = given.dir / "trials.jsonl"
    if given.minutes > 0:
        _study(given, setting=setting, lines=lines, until=until)
    write_page(given.page, setting=setting, told=read_told(lines), likeness=_likeness(given.dir, given.font))
    print(f"wrote {given.page}", file=sys.stderr)


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=600, help="begin no run after so long; 0 writes the page")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, of a core each")
    parser.add_argument("--tune", action="store_true", help="the candidates too")
    parser.add_argument("--notes", type=int, default=7000, help="notes of FluidR3, over all splits")
    parser.add_argument("--other-notes", type=int, default=1500, help="notes of the font that is not heard")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning-seeds", type=int, default=2, help="seeds of a candidate's first measurement")
    parser.add_argument("--font", type=Path, default=FLUID)
    parser.add_argument("--dir", type=Path, default=harness.BENCH / "study")
    parser.add_argument("--page", type=Path, default=PAGE)
    return parser.parse_args(args)


def _study(given: argparse.Namespace, *, setting: Setting, lines: Path, until: float) -> None:
    other = packed(given.dir / f"timgm-{setting.other_notes}", font=None, notes=setting.other_notes, seed=0)
    heard = _likeness(given.dir, given.font).programs
    named = programs.instruments(soundfont.read(font_path(None)), seed=0)
    left_out = [instrument.name for instrument in named if instrument.program in heard]

    def make(trial: Trial) -> Told:
        return make_in_process(trial, data=place(trial.seed), other=other, left_out=left_out)

    def place(seed: int) -> Path:
        return given.dir / f"fluid-{setting.notes}-{seed}" / "pack"

    for seed in range(setting.seeds):
        packed(place(seed).parent, font=given.font, notes=setting.notes, seed=seed)
    go = partial(run_missing, path=lines, make=make, jobs=given.jobs, until=until)
    # all arms of a seed, then the next seed's: what was ended early is fair to each
    go(trials(ARMS.values(), seeds=range(setting.seeds), epochs=setting.epochs))
    if given.tune:
        early = range(setting.tuning_seeds)
        go(trials(candidates().values(), seeds=early, epochs=setting.epochs))
        last = finalists(read_told(lines), epochs=setting.epochs, seeds=early, most=setting.finalists)
        go(trials(last.values(), seeds=range(setting.seeds), epochs=setting.epochs))


def trials(arms: Iterable[Flags], *, seeds: range, epochs: int) -> list[Trial]:
    """List the trials of some arms, a seed after the other."""
    listed = list(arms)
    return [make_trial(at_length(flags, epochs=epochs), seed=seed) for seed in seeds for flags in listed]


def packed(folder: Path, *, font: Path | None, notes: int, seed: int) -> Path:
    """Return the pack of a font's notes, made once; the notes themselves are removed, they are as large again."""
    place = folder / "pack"
    if not all((place / split / "index.parquet").is_file() for split in SPLITS):
        render(folder / "notes", font=font, notes=notes, seed=seed)
        for split in SPLITS:
            pack(folder / "notes", place, split=split)
    shutil.rmtree(folder / "notes", ignore_errors=True)
    return place


def _likeness(folder: Path, font: Path) -> fonts.Likeness:
    """Compare the fonts, once."""
    kept = folder / f"likeness-{font.stem}.json"
    if kept.is_file():
        return fonts.Likeness(**json.loads(kept.read_text()))
    found = fonts.compare(font, font_path(None))
    write_whole(kept, json.dumps(dataclasses.asdict(found)).encode())
    return found


if __name__ == "__main__":
    main()
