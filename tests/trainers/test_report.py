"""Laws of the report: foreign text stays text, nothing is asked of a network, what is empty leaves no trace."""

import base64
import dataclasses
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from shards import audio
from trainers import figures
from trainers.predictions import Predictions, Tally
from trainers.ranking import macro_auc, mean_ap, score_classes
from trainers.report import Example, Report, render_report, write_report
from trainers.tables import Row, class_rows, most_frequent, source_rows, terminal_table

ATTACK = "</script><script>alert(1)</script><img src=http://evil.example/x onerror='x'>\"{{ 7 * 191 }}"
SECTIONS = ("headline", "curves", "confusion", "pairs", "families", "examples", "config", "environment")
FAMILIES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal")


def make_predictions(*, split="valid", rows=300, classes=FAMILIES, groups=12, source=("acoustic", "synthetic")):
    generator = np.random.Generator(np.random.Philox(key=rows))
    present = len(classes) - 1 if len(classes) > 1 else 1
    group = generator.integers(0, groups, rows)
    target = (group % present).astype(np.int64)
    logits = generator.normal(size=(rows, len(classes))) + 2 * np.eye(len(classes))[target]
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    return Predictions(
        split=split,
        classes=tuple(classes),
        keys=tuple(f"{classes[t]}_{i:03d}" for i, t in enumerate(target)),
        target=target,
        probabilities=probabilities,
        loss=-np.log(probabilities[np.arange(rows), target]),
        group=tuple(f"g{g}" for g in group),
        source=tuple(source[g % len(source)] for g in group) if source else (),
    )


def make_many(*, split="valid", rows=300, classes=FAMILIES, **fields):
    """Predictions where a row has any number of classes; the last class holds for no row."""
    generator = np.random.Generator(np.random.Philox(key=rows))
    target = (generator.random((rows, len(classes))) < 0.3).astype(np.uint8)
    target[:, -1] = 0
    answers = np.clip(0.4 * target + 0.6 * generator.random(target.shape), 0, 1).astype(np.float32)
    keys = tuple(f"note{i}" for i in range(rows))
    given = {"split": split, "classes": tuple(classes), "keys": keys, "target": target, "probabilities": answers}
    rest = {"loss": np.ones(rows, np.float32), "group": keys, "source": tuple("xy"[i % 2] for i in range(rows))}
    return Predictions(**(given | rest | fields))


def make_example(*, key="bass_synthetic_001-040-100", target="bass", seconds=4.0, loss=3.2, frames=251):
    generator = np.random.Generator(np.random.Philox(key=9))
    wave = generator.normal(size=int(seconds * 16000)).astype(np.float32) * 0.2
    mel = generator.random((40, frames), np.float32)
    return Example(key=key, target=target, predicted="organ", probability=0.8, loss=loss, waveform=wave,
                   sample_rate=16000, mel=mel)  # fmt: skip


def make_records(steps=400):
    for step in range(1, steps + 1):
        yield {"step": step, "cursor": step * 64, "epoch": step / 100, "train/loss": 2 / step, "train/accuracy": 0.5,
               "train/samples_per_second": 2000.0, "train/wait_share": 0.0, "train/lr": 1e-3}  # fmt: skip
        if step % 100 == 0:
            yield {"step": step, "cursor": step * 64, "epoch": step / 100, "valid/loss": 1.0, "valid/accuracy": 0.6,
                   "valid/macro_accuracy": 0.5}  # fmt: skip


def make_report(**changes):
    report = Report(
        name="demo run",
        config={"seed": 7, "data": {"root": "/data", "pitch": [-2, 2], "crop": None}},
        environment={"python": "3.11", "pack fingerprint": "9f3a"},
        records=list(make_records()),
        splits=(make_predictions(), make_predictions(split="test", rows=120)),
        examples=(make_example(), make_example(loss=5.0, key="loudest")),
        baselines={"valid": {"majority class": 0.17, "logistic regression on mean log-mel": 0.41}},
    )
    return dataclasses.replace(report, **changes)


def make_bare(**changes):
    """A report without what is slow to draw."""
    return make_report(**({"records": [], "examples": ()} | changes))


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their addresses, and the visible text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.addresses, self.ids, self.text = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "poster", "data")]
        self.ids += [value for name, value in attrs if tag == "section" and name == "id"]

    def handle_data(self, data):
        self.text += data


def test_holds_every_section_in_order():
    assert Page(render_report(make_report())).ids == list(SECTIONS)


def test_is_light():
    examples = tuple(make_example(key=f"note{i}") for i in range(6))
    assert len(render_report(make_report(examples=examples))) < 3_000_000


def test_stays_light_with_long_sounds():
    examples = tuple(make_example(key=f"note{i}", seconds=30, frames=1876) for i in range(12))
    page = render_report(make_bare(examples=examples))
    assert len(page) < 3_000_000
    assert "Only the first 4.1 s are kept here." in Page(page).text


def test_asks_nothing_of_a_network():
    page = render_report(make_report())
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(parsed.tags)
    assert parsed.addresses
    assert all(address.startswith(("data:", "#")) for address in parsed.addresses)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)\)", page))
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ATTACK},
        {"config": {ATTACK: {ATTACK: ATTACK, "list": [ATTACK]}}},
        {"environment": {"command": ATTACK}},
        {"splits": (make_predictions(classes=(ATTACK, "b", "c")),)},
        {"splits": (make_predictions(split=ATTACK, source=(ATTACK, "b")),)},
        {"baselines": {"valid": {ATTACK: 0.5}}},
        {"examples": (make_example(key=ATTACK, target=ATTACK),)},
    ],
    ids=["name", "config", "environment", "class", "split and source", "baseline", "example"],
)
def test_foreign_text_stays_text(changes):
    page = Page(render_report(make_bare(**changes)))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "alert(1)" in page.text
    assert "1337" not in page.text.replace("1,337", "")


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"examples": ()}, {"examples"}),
        ({"records": []}, {"curves"}),
        ({"records": list(make_records(1))}, {"curves"}),
        ({"splits": ()}, {"headline", "confusion", "pairs", "families"}),
        ({"splits": (make_predictions(rows=0),)}, {"confusion", "pairs", "families"}),
        ({"config": {}, "environment": {}}, {"config", "environment"}),
    ],
)
def test_empty_pieces_leave_their_section_out(changes, missing):
    page = Page(render_report(make_report(**changes)))
    assert page.ids == [section for section in SECTIONS if section not in missing]


def test_verdict_says_whether_the_lower_end_beats_the_majority():
    assert "Better than always answering the majority class" in render_report(make_bare())
    above = make_bare(baselines={"valid": {"majority class": 0.99}}, splits=(make_predictions(),))
    assert "Not shown to be better than always answering" in render_report(above)
    alone = make_bare(splits=(make_predictions(groups=1),))
    assert "With one instrument only there is no interval" in Page(render_report(alone)).text


def test_majority_is_counted_where_no_baseline_names_it():
    text = Page(render_report(make_bare(baselines={}))).text
    assert "majority class" in text
    assert "logistic" not in text


def test_absent_classes_are_named_and_dashed():
    text = Page(render_report(make_bare())).text
    assert "macro accuracy over 10 classes present" in text
    assert "Absent here: vocal." in text


def test_examples_come_by_falling_loss_with_their_sound():
    page = Page(render_report(make_report()))
    assert page.text.index("loudest") < page.text.index("bass_synthetic_001")
    sound = next(address for address in page.addresses if address.startswith("data:audio/wav"))
    data = base64.b64decode(sound.split(",")[1])
    header = audio.read_header(data, name="sound")
    assert (header.sample_rate, header.length) == (16000, 64000)
    decoded = audio.decode(data, header=header)
    assert decoded == pytest.approx(np.clip(make_example().waveform, -1, 1), abs=1e-4)


def test_many_classes_a_row_are_ranked_not_confused():
    splits = (make_many(family=("bass", "organ") * 150), make_many(split="test", rows=120))
    records = [{"step": s, "epoch": s, "train/label_accuracy": 0.8, "valid/map": 0.1 * s} for s in (1, 2, 3)]
    page = Page(
        render_report(
            make_report(splits=splits, records=records, baselines={"valid": {"chance": 0.27, "logistic": 0.4}})
        )
    )
    assert page.ids == [{"confusion": "classes"}.get(name, name) for name in SECTIONS if name != "pairs"]
    scores = score_classes(splits[0].target, splits[0].probabilities, classes=FAMILIES)
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for share in (mean_ap(scores), macro_auc(scores), scores[0].ap, scores[0].auc, 0.27, 0.4):
        assert f"{100 * share:.1f} %" in text
    assert "mean over 10 classes with rows of both kinds" in text
    assert "Better than chance, 27.0 %" in text
    assert "Absent here: vocal." in text
    assert "By family and by source" in text
    assert "Share of the classes decided rightly" in text
    assert [title for title, _ in figures.curves(records)] == ["Classes decided rightly", "Mean average precision"]


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": (make_many(classes=(ATTACK, "b", "c")),)},
        {"splits": (make_many(family=(ATTACK,) * 300),)},
        {"splits": (make_many(),), "examples": (dataclasses.replace(make_example(target=ATTACK), probability=None),)},
    ],
    ids=["class", "family", "example"],
)
def test_foreign_text_stays_text_where_a_row_has_many_classes(changes):
    test_foreign_text_stays_text(changes)


def test_many_classes_a_row_without_rows_or_ranks_are_told():
    nothing = make_many(rows=0)
    assert not {"classes", "families"} & set(Page(render_report(make_bare(splits=(nothing,)))).ids)
    same = make_many(rows=2, target=np.ones((2, len(FAMILIES)), np.uint8))
    assert "No class has rows of both kinds" in Page(render_report(make_bare(splits=(same,)))).text
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal_table((make_many(classes=("[red]bass", "brass", "flute")), nothing)))
    text = console.export_text()
    assert "[red]bass" in text
    assert re.search(r"flute\s*│\s*-\s*│\s*-\s*│\s*-", text), "it holds for no row"
    assert re.search(r"mean\s*│.*2 classes.*0 classes", text)


def test_tables_keep_the_most_frequent_in_their_order():
    counts = [3, 9, 1, 9, 5]
    rows = [Row(name=str(i), tallies=(Tally(rows=count, correct=0),)) for i, count in enumerate(counts)]
    assert [row.name for row in most_frequent(rows, most=3)] == ["1", "3", "4"]
    assert most_frequent(rows, most=9) == rows


def test_odd_sounds_and_spectrograms_are_drawn():
    for length, frames in ((0, 0), (1, 1), (7, 2000)):
        odd = make_example(seconds=length / 16000, frames=frames)
        odd.waveform[:1] = np.nan
        odd.mel[:, :1] = np.inf
        assert "<svg" in render_report(make_bare(examples=(odd,)))


def test_many_classes_become_a_picture():
    predictions = make_predictions(classes=tuple(f"pitch {i}" for i in range(128)))
    page = render_report(make_bare(splits=(predictions,)))
    assert 'aria-label="confusion matrix"' in page
    assert re.search(r"Absent here: [^.]* and \d+ more\.", page)
    assert len(page) < 500_000


def test_curves_survive_holes_resumes_and_length():
    holes = [{"step": s, "epoch": s / 10, "train/loss": v} for s, v in enumerate([2.0, None, float("nan"), 1.0, 0.0])]
    assert [title for title, _ in figures.curves(holes)] == ["Loss"]
    once = list(make_records(50))
    assert figures.curves([*make_records(80)][:60] + once) == figures.curves(once)
    many = [{"epoch": i / 1e4, "train/lr": 1e-3} for i in range(50_000)]
    assert len(figures.curves(many)[0][1]) < 40_000


def test_is_the_same_bytes_twice():
    assert render_report(make_report()) == render_report(make_report())


def test_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "report.html"
    write_report(make_report(name="bad \udcff name"), path)
    assert path.read_text("utf-8").startswith("<!doctype html>")
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_report(make_report(examples=(None,)), path)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_pulls_in_neither_pyplot_nor_torch_nor_ray():
    unwanted = "{'matplotlib.pyplot', 'sklearn', 'torch', 'ray'}"
    code = f"import sys, trainers.report, trainers.tables; assert not {unwanted} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_tables_line_up_splits_of_different_classes():
    rows = class_rows([make_predictions(classes=("a", "b", "c")), make_predictions(classes=("b", "d"), rows=50)])
    assert [row.name for row in rows] == ["a", "b", "c", "d"]
    assert [tally.rows for tally in rows[3].tallies] == [0, 0]
    assert source_rows([make_predictions(source=())]) == []


def test_terminal_table_dashes_what_is_absent_and_reads_no_markup():
    console = Console(width=120, record=True, file=io.StringIO())
    splits = (make_predictions(classes=("[red]bass", "brass", "flute")), make_predictions(split="test", rows=0))
    console.print(terminal_table(splits))
    text = console.export_text()
    assert "[red]bass" in text
    assert re.search(r"flute\s*│\s*-\s*│\s*-\s*│\s*-\s*│\s*-", text)
    assert re.search(r"macro\s*│.*2 classes.*0 classes", text)
    assert re.search(r"total\s*│\s*\d+\.\d \(\d+\.\d to \d+\.\d\)\s*│\s*300", text)
