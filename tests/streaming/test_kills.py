"""200 trials of SIGKILL to a reader or a rank: the row log is the uninterrupted run's, and nothing is left behind."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from shards.index import Pack
from streaming.world import World
from tests.conftest import serve
from tests.streaming.kills import COMMAND
from tests.streaming.ranks import STEPS
from tests.streaming.sequences import BATCH, CASES, endless, make

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
Step = tuple[tuple[str, ...], np.ndarray]


@pytest.fixture(scope="module")
def wholes(tiny: tuple[Pack, ...]) -> dict[str, list[Step]]:
    """Of each case the steps of an uninterrupted run on one rank: keys and waveforms, (batch, time)."""
    found = {}
    for name, case in CASES.items():
        batches = zip(endless(make(tiny, case)), range(STEPS), strict=False)
        found[name] = [(batch.key, batch.waveform.numpy().copy()) for batch, _ in batches]
    return found


def run_trials(folder: Path, places: list[str], *, seeds: range, mirror: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*COMMAND, str(folder), str(seeds.start), str(seeds.stop), *places], cwd=ROOT, text=True, timeout=280,
        env={**os.environ, "NOTESTREAM_MIRROR": str(mirror), "no_proxy": "*"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def fault_of(trial: dict[str, Any], folder: Path, whole: list[Step]) -> str | None:
    """Tell what is wrong with a trial, by the row log of all its attempts."""
    if trial["left"] or any(trial["codes"]):
        return f"left behind {trial['left']}, exit codes {trial['codes']}"
    lines: dict[tuple[int, int, int], dict[str, Any]] = {}
    for path in sorted((folder / "rows").glob("attempt-*-rank-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            place = line["attempt"], line["step"] - 1, int(path.stem[-3:])
            if place in lines:
                return f"attempt, step, rank {place} was logged twice"
            lines[place] = line
    for (attempt, step, rank), line in lines.items():  # those that are superseded too
        if step >= STEPS:
            return f"attempt {attempt}, rank {rank} took step {step} of {STEPS}"
        share = World(rank=rank, world_size=trial["attempts"][attempt]["world_size"]).share(BATCH)
        keys, waveforms = (of[share.start : share.stop] for of in whole[step])
        told = line["cursor"], tuple(line["keys"]), line["hashes"]
        if told != (step * BATCH, keys, [xxhash.xxh3_64_hexdigest(row.tobytes()) for row in waveforms]):
            return f"attempt {attempt}, step {step}, rank {rank} differs: {line['keys']}, not {keys}"
    starts = [one["cursor"] // BATCH for one in trial["attempts"]]
    due = {
        (attempt, step, rank)
        for attempt, (first, past) in enumerate(zip(starts, [*starts[1:], STEPS], strict=True))
        for step in range(first, past)
        for rank in range(trial["attempts"][attempt]["world_size"])
    }
    missing = due - set(lines)
    return f"(attempt, step, rank) were never logged: {sorted(missing)[:9]}" if missing else None


def faults(trials: list[dict[str, Any]], folder: Path, wholes: dict[str, list[Step]]) -> list[str]:
    found = []
    for trial in trials:
        place = folder / str(trial["seed"])
        if fault := fault_of(trial, place, wholes[trial["case"]]):
            found.append(f"seed {trial['seed']}: {fault}; {trial}; {(place / 'stderr').read_text()[-2000:]}")
    return found


@pytest.mark.parametrize("seeds", [range(95), range(95, 190)], ids=str)
def test_the_row_log_of_killed_runs_is_the_uninterrupted_ones(tiny, wholes, tmp_path: Path, seeds: range):
    places = [str(pack.home.parent) for pack in tiny]
    trials = run_trials(tmp_path, places, seeds=seeds, mirror=tmp_path / "mirror")
    assert [trial["seed"] for trial in trials] == list(seeds)
    wrong = faults(trials, tmp_path, wholes)
    assert not wrong, "\n".join(wrong)
    kills = Counter(victim for trial in trials for victim in trial["kills"])
    assert min(kills["reader"], kills["rank"]) > len(seeds) / 4, "or it proves little"
    noticed = sum((tmp_path / str(seed) / "stderr").read_text().count("started anew") for seed in seeds)
    assert noticed > kills["reader"] / 4


def test_killed_runs_over_a_network_lose_nothing_and_leave_a_whole_mirror(tiny, wholes, tmp_path: Path):
    seeds = range(190, 200)
    folders = [Path(str(pack.home)).parent for pack in tiny]
    with serve(root := folders[0].parents[1]) as site:
        places = [f"{site}/{folder.relative_to(root)}" for folder in folders]
        trials = run_trials(tmp_path, places, seeds=seeds, mirror=tmp_path / "mirror")
    wrong = faults(trials, tmp_path, wholes)
    assert not wrong, "\n".join(wrong)
    shards = {shard.hash for pack in tiny for shard in pack.shards}
    assert {path.stem for path in (tmp_path / "mirror").glob("*.tar")} == shards
    for path in (tmp_path / "mirror").glob("*.tar"):
        assert xxhash.xxh3_128_hexdigest(path.read_bytes()) == path.stem
