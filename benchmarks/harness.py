"""harness: named works -> interleaved rounds -> medians -> a Markdown page. Claims nothing itself.

Rounds are interleaved: each method once, then each again, from another one on, so that whatever else the machine does
hits them alike. Ratios compare medians of one run. One thread, warm page cache, imports and first calls left out.
"""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from shards.format import write_whole
from shards.index import Pack
from shards.pack import pack
from shards.render import render

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "data" / "bench"  # git-ignored
DEMO_NOTES = ROOT / "data" / "demo" / "notes"
NOTES = 300

Method = Callable[[], float]  # works once, returns its seconds
Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """One table, the claim that it measures, and what it says in one line."""

    title: str
    claim: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    summary: str


def stopwatch(work: Callable[[], object], *, clock: Clock = time.process_time) -> Method:
    """Turn a callable into one that returns its seconds.

    By default those of the processor: on a shared machine, the time of others that hits long works hardest is left out.
    """

    def timed() -> float:
        started = clock()
        work()
        return clock() - started

    return timed


def measure(methods: Mapping[str, Method], *, rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Return each method's seconds, (rounds,), after `warm` rounds that aren't counted."""
    names, found = list(methods), {name: [] for name in methods}
    for turn in range(warm + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds = methods[name]()
            if turn >= warm:
                found[name].append(seconds)
    return found


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return each method's median."""
    return {name: statistics.median(values) for name, values in found.items()}


def figure(value: float) -> str:
    """Write three significant digits: 0.0123, 1.23, 1,234."""
    value = float(f"{value:.3g}") if abs(value) < 1000 else value  # else 99.96 would be 100.0
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def spread(values: Sequence[float], *, scale: float = 1.0) -> str:
    """Write the range in which all rounds lay: how far to trust the median."""
    low, high = sorted((scale * min(values), scale * max(values)))
    return f"{figure(low)} to {figure(high)}"


def spread_rate(values: Sequence[float], *, count: float) -> str:
    """Write the range of `count` a second over all rounds."""
    return spread([count / value for value in values])


def one_thread() -> None:
    """Keep torch to one thread, as a reader has it."""
    import torch

    torch.set_num_threads(1)


def one_core() -> None:
    """Keep this process, and those that it starts, to one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def notes() -> Path:
    """Return notes in NSynth's layout: `make demo`'s if it has made them, else 300, rendered once."""
    if (DEMO_NOTES / "nsynth-test" / "examples.json").is_file():
        return DEMO_NOTES
    render(BENCH / "notes", font=None, notes=NOTES, seed=0)
    return BENCH / "notes"


def many(count: int) -> Path:
    """Return nsynth-train with `count` notes: copies of `notes()`'s under other names, made once."""
    source, folder = notes() / "nsynth-train", BENCH / f"many-{count}" / "nsynth-train"
    if (folder / "examples.json").is_file():
        return folder
    examples, told = json.loads((source / "examples.json").read_bytes()), {}
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for i, key in enumerate(itertools.islice(itertools.cycle(list(examples)), count)):
        new = f"{key}-{i // len(examples):03d}"
        shutil.copyfile(source / "audio" / f"{key}.wav", folder / "audio" / f"{new}.wav")
        told[new] = examples[key] | {"note_str": new}
    write_whole(folder / "examples.json", json.dumps(told, indent=4).encode())
    return folder


def packed(*, split: str) -> Pack:
    """Return the pack of a split of `notes()`, made once."""
    source = notes()
    return pack(source, BENCH / f"pack-{source.parent.name}", split=split)


def packed_many(count: int) -> Pack:
    """Return the pack of `many(count)`, made once."""
    return pack(many(count), BENCH / f"packed-{count}", split="train")


@contextlib.contextmanager
def peers(script: str, *args: str | Path) -> Iterator[Callable[[str], float]]:
    """Start the other libraries' side in .venv-peers; yield a way to ask it for a method's seconds."""
    python, path = ROOT / ".venv-peers" / "bin" / "python", Path(__file__).with_name(script)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with (
        tempfile.TemporaryDirectory(dir=BENCH) as place,  # not from our folder: one of them owns our import names
        subprocess.Popen([python, path, *map(str, args)], text=True, cwd=place, **pipes) as process,
    ):
        assert process.stdin and process.stdout
        answers, questions = process.stdout, process.stdin
        answers.readline()

        def ask(name: str) -> float:
            print(name, file=questions, flush=True)
            return json.loads(answers.readline())["seconds"]

        yield ask
        questions.close()


def folder(pack: Pack) -> Path:
    """Return a pack's folder on this disk."""
    return Path(str(pack.folder))


def show(title: str, sections: Sequence[Section], *, packages: Sequence[str]) -> None:
    """Print a page of Markdown: where it was measured, then each section's claim, table and summary."""
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    print(f"## {title}\n\n{describe_machine()}; {', '.join(versions)}.\n")
    for section in sections:
        print(f"### {section.title}\n\n{section.claim}\n\n{table(section.columns, section.rows)}\n")
        print(f"**{section.summary}**\n")


def describe_machine() -> str:
    """Tell processor, cores, system, date and commit, and what else was running."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    now, (load, _, _) = datetime.now().astimezone(), os.getloadavg()
    system = f"{platform.system()} {platform.release()}"
    return f"{model}, {os.cpu_count()} cores, {system}, load {load:.1f}; {now:%Y-%m-%d %H:%M}, {_commit()}"


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"commit {said.stdout.strip()}" if said.returncode == 0 else "no commit"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table of Markdown; columns of numbers to the right."""
    rule = ["---"] + ["---:" if rows[0][i][:1].isdigit() else "---" for i in range(1, len(columns))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))
