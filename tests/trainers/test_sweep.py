"""Laws of a sweep: refused before anything starts, killed at any moment and gone on with, and a table of what is there.

What starts Ray Tune for real is `make test-faults`, since it kills it.
"""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from matplotlib import image

from shards.remote import locate
from tests.trainers.runs import ROOT, config
from tests.trainers.test_report import ATTACK, Page
from trainers.__main__ import main as door
from trainers.run import Run
from trainers.sweep_page import draw, render
from trainers.sweep_table import DIVERGED, Trial, end_trial, ranked, read_outcome
from trainers.vary import parse_vary

FLAGS = [
    "--epochs", "6", "--batch-size", "8", "--readers", "0", "--crop-seconds", "0.5", "--log-every", "1",
    "--model.name", "test_resnet", "--monitor", "valid/loss", "--keep", "2", "--device", "cpu", "--baseline-rows", "0",
]  # fmt: skip
VARY = ["--vary", "optim.lr=1e-4..1e-2", "--vary", "mel.n_mels=24,40", "--trials", "4"]


def write_trial(runs: Path, name: str, *, losses: list[float], finished: bool) -> None:
    """A trial's folder as a run leaves it, as far as a sweep looks at it."""
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    records = [{"step": 8 * i, "epoch": i + 0.05, "valid/loss": loss} for i, loss in enumerate(losses, start=1)]
    records += [{"step": 99, "epoch": 9.0, "valid/loss": 0.0, "checkpoint": "best"}] if finished else []
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if finished:
        (folder / "report.html").write_text("")


@pytest.fixture
def known(data: Path, tmp_path: Path):
    """Five trials of which one is finished, one stopped early, one diverged, one under way and one not begun."""
    write_trial(tmp_path, "trial-0000", losses=[2.0, 1.0, 1.5], finished=True)
    write_trial(tmp_path, "trial-0001", losses=[3.0], finished=False)
    end_trial(str(tmp_path / "trial-0001"), "stopped early")
    write_trial(tmp_path, "trial-0002", losses=[], finished=False)
    end_trial(str(tmp_path / "trial-0002"), DIVERGED)
    write_trial(tmp_path, "trial-0003", losses=[0.5], finished=False)
    base = config(data, tmp_path, monitor="valid/loss", epochs=3)
    values = [{"optim.lr": 10.0**-k, "model.name": f"net{k % 2}"} for k in range(5)]
    trials = [Trial(values=one, config=config(data, tmp_path, name=f"trial-{k:04d}")) for k, one in enumerate(values)]
    return [read_outcome(trial, config=base) for trial in trials]


def test_a_trial_is_what_its_folder_says(known):
    assert [one.state for one in known] == ["finished", "stopped early", "diverged", "unfinished", "not begun"]
    assert [one.is_done for one in known] == [True, True, True, False, False]
    assert [(one.best, one.best_epoch, one.epochs) for one in known] == [
        (1.0, 2, 3), (3.0, 1, 1), (None, None, 0), (0.5, 1, 1), (None, None, 0),
    ]  # fmt: skip


def test_trials_are_ranked_by_their_best_value_whichever_way_it_counts(known):
    names = [one.name[-1] for one in ranked(known, monitor="valid/loss")]
    assert names == ["3", "0", "1", "2", "4"]
    assert [one.name[-1] for one in ranked(known, monitor="valid/accuracy")] == ["1", "0", "3", "2", "4"]


def test_a_resumed_sweep_stops_by_what_was_heard_before(known):
    from trainers.tuner import _scheduler

    base = known[0].trial.config
    base = dataclasses.replace(base, monitor="valid/loss", epochs=3)
    heard = [dataclasses.replace(one, state="finished", history=((1, 1.0 + one.epochs),)) for one in known]
    for before, decisions in ((heard, ["CONTINUE", "STOP"]), ([], ["CONTINUE", "CONTINUE"])):
        scheduler = _scheduler(base, known=before, keep=2, least_epochs=1)
        found = []
        for loss in (0.5, 9.0) if before else (9.0, 0.5):
            trial: Any = SimpleNamespace(trial_id=str(loss))
            scheduler.on_trial_add(None, trial)
            found.append(scheduler.on_trial_result(None, trial, {"epoch": 1, "valid/loss": loss}))
        assert found == decisions


def test_the_page_draws_every_option_and_escapes_every_text(known, tmp_path: Path):
    axes = parse_vary(("optim.lr=1e-4..1", "model.name=net0,net1"))
    picture = draw(known, axes=axes, monitor="valid/loss")
    (tmp_path / "sweep.png").write_bytes(picture)
    assert image.imread(tmp_path / "sweep.png").shape[1] > 2 * image.imread(tmp_path / "sweep.png").shape[0]
    known[0].trial.values["model.name"] = ATTACK
    page = Page(render(known, monitor="valid/loss", name=ATTACK, vary=(ATTACK,), picture=picture))
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert page.text.count("alert(1)") == 4  # the title's, the heading's, the option's and the value's


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "vary must be given: such as --vary mel.n_mels=40,64"),
        (["--vary", "mel.n_mells=4"], "vary 'mel.n_mells' is no option of train"),
        (["--vary", "mel.n_mels=40,400"], "mel n_mels (400) is too high for an n_fft of 1024"),
        (["--vary", "mel.f_max=4000,9000"], "mel f_max must be at most 8000 Hz, half the rate, got 9000"),
        (["--vary", "model.name=alexnt"], "model must be one of timm's, got 'alexnt'"),
        (["--vary", "optim.lr=1,20"], "optim lr must lie in 0..10, got 20.0"),
        (["--vary", "balance=pitchh"], "pitchh"),
        (["--vary", "optim.lr=1e-3..1e-2"], "trials must be given with a range (optim.lr)"),
        (["--vary", "optim.lr=0.1", "--keep", "1"], "keep must be at least 2, got 1"),
        (["--resume", "none"], "sweep none does not exist in"),
    ],
)
def test_wrong_use_is_refused_before_anything_starts(flags, message, data: Path, tmp_path: Path, capsys):
    assert door(["sweep", "--data", str(data), "--runs", str(tmp_path / "runs"), *flags]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("notestream: ")
    assert message in said
    assert not (tmp_path / "runs").exists()


def test_a_pack_without_valid_is_refused(data: Path, tmp_path: Path, capsys):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "train").symlink_to(data / "train")
    assert door(["sweep", "--data", str(tmp_path / "pack"), "--vary", "optim.lr=0.1,0.2"]) == 2
    assert "has no split valid, by which trials are judged" in capsys.readouterr().err


def sweep_until(command: list[str], *, ready, number: int) -> tuple[int, str, str]:
    """Run a sweep, and send it a signal once its folder is as wanted; what it started is gone when this returns."""
    begun = subprocess.Popen(
        [sys.executable, "-m", "trainers", "sweep", *command], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 200
    while not ready():
        assert begun.poll() is None, begun.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    children = psutil.Process(begun.pid).children(recursive=True)
    begun.send_signal(number)
    begun.wait(timeout=100)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert all("Agent" in one.name() for one in alive), "a trial outlives its sweep"
    for one in alive:  # Ray's own, which look for their node every half minute
        one.kill()
    return begun.returncode, *begun.communicate()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_sweep_interrupted_and_killed_goes_on_from_its_folder_alone(data: Path, tmp_path: Path, capsys):
    runs = tmp_path / "runs"

    def lines(k: int) -> list[dict]:
        return [json.loads(line) for line in Run(runs / "s" / f"trial-{k:04d}").metrics.read_text().splitlines()]

    def has(k: int, count: int) -> bool:
        path = Run(runs / "s" / f"trial-{k:04d}").metrics
        return path.exists() and path.read_text().count("\n") >= count

    begin = ["--data", str(data), "--runs", str(runs), "--name", "s", "--at-a-time", "1", *VARY, *FLAGS]
    code, said, error = sweep_until(begin, ready=lambda: has(0, 11), number=signal.SIGINT)
    assert code == 130, said + error
    assert error.strip().splitlines()[-1] == "notestream: interrupted: go on with --resume s"
    assert re.search(r"trial-0000 .* unfinished +[1-5] ", said), said

    resume = ["--resume", "s", "--runs", str(runs), "--at-a-time", "1"]
    sweep_until(resume, ready=lambda: has(1, 11), number=signal.SIGKILL)
    assert (runs / "s" / "trial-0000" / "report.html").exists()
    first = (runs / "s" / "trial-0000" / "metrics.jsonl").stat().st_mtime_ns

    capsys.readouterr()
    done = subprocess.run(
        [sys.executable, "-m", "trainers", "sweep", *resume[:-2]], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sweep s in" in done.stdout and "4 trials, 1 of them done" in done.stdout
    assert (runs / "s" / "trial-0000" / "metrics.jsonl").stat().st_mtime_ns == first, "a finished trial was run again"

    table = json.loads((runs / "s" / "sweep.json").read_text())
    assert sorted(row["trial"] for row in table["trials"]) == [f"trial-{k:04d}" for k in range(4)]
    states = {row["state"] for row in table["trials"]}
    assert states <= {"finished", "stopped early"}
    for row in table["trials"]:
        k = int(row["trial"][-4:])
        told = [one for one in lines(k) if "valid/loss" in one and "checkpoint" not in one]
        assert row["valid/loss"] == min(one["valid/loss"] for one in told)
        assert row["epochs"] == len(told) == (6 if row["state"] == "finished" else row["epochs"])
        own = json.loads((runs / "s" / row["trial"] / "config.json").read_text())
        assert (row["optim.lr"], row["mel.n_mels"]) == (own["optim"]["lr"], own["mel"]["n_mels"])
        steps = [one["step"] for one in lines(k) if "train/loss" in one]
        assert steps == list(range(1, len(steps) + 1)), "steps are missing, or taken twice"
        assert door(["evaluate", str(runs / "s" / row["trial"]), "--split", "valid", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(row["valid/loss"], rel=1e-5)
    with (runs / "s" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [row["trial"] for row in table["trials"]]
    assert (runs / "s" / "sweep.png").stat().st_size > 5000
    assert not [path for path in (runs / "s").iterdir() if path.name.endswith(".tmp")]

    assert door(["sweep", *resume]) == 0
    assert "4 trials, 4 of them done" in capsys.readouterr().out
    assert door(["sweep", *resume, "--optim.lr", "0.5"]) == 2
    assert "when sweep s began" in capsys.readouterr().err
    assert door(["sweep", "--data", str(data), "--runs", str(runs), "--name", "s", *VARY]) == 2
    assert "s exists in" in capsys.readouterr().err


@pytest.mark.faults
def test_a_sweep_at_a_url_is_made_and_known_again(data: Path, store: str):
    begin = ["--data", str(data), "--name", "s", "--vary", "mel.n_mels=24,40", *FLAGS, "--epochs", "1"]
    for given, told in ((begin, "2 trials, 0 of them done"), (["--resume", "s"], "2 trials, 2 of them done")):
        command = [sys.executable, "-m", "trainers", "sweep", *given, "--runs", store.replace("PATH", "sweeps")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        assert told in done.stdout
    place = locate(store.replace("PATH", "sweeps/s"))
    assert {"sweep.csv", "sweep.html", "sweep.png", "trial-0000", "trial-0001"} <= set(place.children())
    assert {"checkpoints", "metrics.jsonl", "report.html"} <= set((place / "trial-0001").children())
