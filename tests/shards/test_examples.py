"""examples.json as a stream: the same rows however it is cut, one line for all that is wrong, flat memory."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shards import examples
from shards.errors import DataError
from shards.examples import read_examples
from shards.fields import FIELDS

ROOT = Path(__file__).resolve().parents[2]


def note(key: str, **changed) -> dict:
    whole = {
        "note": 1, "note_str": key, "instrument": 2, "instrument_str": "bass_synthetic_002", "pitch": 60,
        "velocity": 100, "sample_rate": 16000, "qualities": [0, 1], "qualities_str": ["dark"], "instrument_family": 0,
        "instrument_family_str": "bass", "instrument_source": 2, "instrument_source_str": "synthetic",
    }  # fmt: skip
    return whole | changed


def read(text: str | bytes):
    return read_examples([text if isinstance(text, bytes) else text.encode()], name="examples.json")


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 1 << 30])
def test_no_cut_changes_a_row(notes: Path, size: int):
    text = (notes / "nsynth-valid/examples.json").read_bytes()
    found = read_examples((text[at : at + size] for at in range(0, len(text), size)), name="x")
    wanted = json.loads(text)
    assert found.schema.names == ["key", *FIELDS.names]
    assert found.schema.types[1:] == FIELDS.types
    assert found["key"].to_pylist() == list(wanted)  # the file's order
    assert found.select(FIELDS.names).to_pylist() == [
        {name: row[name] for name in FIELDS.names} for row in wanted.values()
    ]


def test_batches_are_seamless(notes: Path, monkeypatch: pytest.MonkeyPatch):
    text = (notes / "nsynth-valid/examples.json").read_bytes()
    whole = read(text)
    monkeypatch.setattr(examples, "BATCH_ROWS", 5)
    assert read(text).equals(whole)


def test_other_fields_are_left_out_and_any_key_is_taken():
    keys = ["a.b", "a/ü", "", "x" * 300]
    found = read(json.dumps({key: note(key, mood={"any": [None]}) for key in keys}))
    assert found["key"].to_pylist() == keys
    assert "mood" not in found.schema.names


def entries(**changed) -> str:
    return json.dumps({"k": note("k"), "odd": note("odd", **changed)})


WRONG = "has a field of another type than NSynth's"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not whole JSON (no { at character 0)"),
        ("  \n", "is not whole JSON (no { at character 3)"),
        (entries()[:-1], "is not whole JSON (no , or } at character 6"),
        (entries()[:300], "is not whole JSON (Unterminated string starting at at character 2"),
        (entries() + " x", "is not whole JSON (more after its end at character 6"),
        (entries() * 2, "is not whole JSON (more after its end at character 6"),
        (entries()[:-1] + ",}", "is not whole JSON (Expecting value at character 6"),
        (entries().replace('"odd"', "17", 1), "is not whole JSON (17 is no key)"),
        (entries().replace("dark", "d\nrk"), "is not whole JSON (Invalid control character at at character"),
        ("\ufeff" + entries(), "is not whole JSON (no { at character 0)"),
        (entries().encode().replace(b"dark", b"d\xffrk"), "is not whole JSON ('utf-8' codec can't decode byte 0xff in"),
        (entries(pitch=float("nan")), f"{WRONG} (pitch of note 'odd' is nan, not int64)"),
        (entries(pitch=2**63), f"{WRONG} (pitch of note 'odd' is 9223372036854775808, not int64)"),
        (entries(instrument_str="\ud800"), f"{WRONG} (instrument_str of note 'odd' is '\\ud800', not string)"),
        (entries().replace("60", "9" * 5000), "is not whole JSON (Exceeds the limit"),
        ("{}", "holds no notes: give an NSynth split"),
        ("[1, 2]", "is not whole JSON (no { at character 0)"),
        ('{"k": 3}', "note 'k' lacks note, note_str, instrument,"),
        ('{"k": {"note_str": "k"}}', "note 'k' lacks note, instrument, instrument_str"),
        (entries(pitch=None, velocity=None), "note 'odd' lacks pitch, velocity: NSynth's 13 fields are needed"),
        (entries(note_str="other"), "note 'odd' calls itself 'other': key and note_str must be equal"),
        (entries(pitch="60"), f"{WRONG} (pitch of note 'odd' is '60', not int64): mend it"),
        (entries(pitch=60.0), f"{WRONG} (pitch of note 'odd' is 60.0, not int64): mend it"),
        (entries(pitch=True), f"{WRONG} (pitch of note 'odd' is True, not int64): mend it"),
        (entries(qualities=[0, 300]), f"{WRONG} (qualities of note 'odd' is [0, 300], not list<"),
        (entries(qualities=[0, None]), f"{WRONG} (qualities of note 'odd' is [0, None], not list<"),
        (entries(qualities="01"), f"{WRONG} (qualities of note 'odd' is '01', not list<"),
        (entries(qualities_str="dark"), f"{WRONG} (qualities_str of note 'odd' is 'dark', not list<"),
        (entries(qualities_str=[1]), f"{WRONG} (qualities_str of note 'odd' is [1], not list<"),
        (entries(instrument_str=["x"]), f"{WRONG} (instrument_str of note 'odd' is ['x'], not string)"),
        (entries(instrument_str={"a": 1}), f"{WRONG} (instrument_str of note 'odd' is {{'a': 1}}, not string)"),
        (entries()[:-1] + ", " + json.dumps({"k": note("k")})[1:], "holds 'k' twice: remove one"),
        (json.dumps({"odd\nkey": 3}), r"note 'odd\nkey' lacks"),
        ('{"k": ' + "[" * 9_000 + "]" * 9_000 + "}", "is not whole JSON (it nests too deeply)"),
        ('{"k": ' + '{"a":' * 10_000 + "1" + "}" * 10_001, "is not whole JSON (it nests too deeply)"),
        (entries().replace("60", "[" * 9_000 + "]" * 9_000), "is not whole JSON (it nests too deeply)"),
        (entries(pitch=[[[[[[[[1]]]]]]]]), f"{WRONG} (pitch of note 'odd' is [[[[[[[...]]]]]]], not int64)"),
        (entries().replace('"pitch"', '"note"', 1), "holds 'note' twice in one note: remove one"),
    ],
    ids=lambda value: str(value)[-40:],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(text: str | bytes, told: str):
    with pytest.raises(DataError) as error:
        read(text)
    message = str(error.value)
    assert told in message
    assert message.startswith("examples.json")
    assert "\n" not in message
    assert len(message) < 400


def test_a_note_has_a_most_size_and_places_are_told_past_a_window():
    assert read(entries(more="x" * 60_000)).num_rows == 2
    with pytest.raises(DataError, match=r"holds a note, or blanks, of over 65,536 characters"):
        read(entries(more="x" * 70_000))
    text = json.dumps({str(i): note(str(i)) for i in range(5000)})
    with pytest.raises(DataError, match=rf"no , or }} at character {len(text) - 1:,}\): fetch"):
        read(text[:-1])


def endless(head: str, middle: str) -> Iterator[bytes]:
    """A text of up to 1 GiB that never comes to an end of its note; says how much was asked for."""
    yield head.encode()
    for _ in range((1 << 30) // (len(middle) * 1024)):
        yield middle.encode() * 1024


@pytest.mark.parametrize(
    ("head", "middle"),
    [
        ("", " "), ('{"k"', "\n"), ("{", "\t "), (json.dumps({"k": note("k")})[:-1], " "), (entries(), " "),
        ('{"k": "', "x"), ('{"', "k"), ('{"k": {"a": [', "1, "), ('{"k": "', "\\u00e4"), ('{"k": ', "12"),
    ],
)  # fmt: skip
def test_a_note_without_end_is_given_up_soon(head: str, middle: str):
    asked = itertools.count()
    chunks = (chunk for chunk, _ in zip(endless(head, middle), asked, strict=False))
    told = r"x (holds a note, or blanks, of over 65,536 characters|.*Exceeds the limit.*): fetch or unpack it anew"
    with pytest.raises(DataError, match=told):
        read_examples(chunks, name="x")
    assert next(asked) * len(middle) * 1024 < 1 << 20


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_text_gives_a_data_error_or_a_table(notes: Path, seed: int):
    text = (notes / "nsynth-test/examples.json").read_bytes()
    rng, told = np.random.default_rng(seed), 0
    for _ in range(100):
        bent = bytearray(text)
        at, count = int(rng.integers(len(bent))), int(rng.integers(1, 4))
        bent[at : at + count] = (b"", rng.bytes(count), b'"', b"[{,:")[rng.integers(4)]
        try:
            assert 0 < read(bytes(bent)).num_rows <= 11
        except DataError as error:
            assert "\n" not in str(error)
            told += 1
    assert told > 50


CHILD = """
import json, resource, time
import pyarrow as pa
from shards.examples import read_examples

def text():
    key = "keyboard_electronic_%03d-%03d-%06d"
    note = dict(note="%d", note_str=key, instrument="%d", instrument_str="keyboard_electronic_%03d", pitch="%d",
        velocity=100, sample_rate=16000, qualities=[0, 1] * 5, qualities_str=["fast_decay", "tempo-synced"],
        instrument_family=4, instrument_family_str="keyboard", instrument_source=1, instrument_source_str="electronic")
    whole = json.dumps({key: note}, indent=4)[1:-1].replace('"%d"', "%d")
    for i in range(289_205):
        instrument, pitch = i % 1006, i % 128
        numbers = (instrument, pitch, i, i, instrument, pitch, i, instrument, instrument, pitch)
        yield (("," if i else "{") + whole % numbers).encode()
    yield b"}"

pa.array(["what pyarrow imports at its first use"])
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.process_time()
table = read_examples(text(), name="x")
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
print(table.num_rows, peak, time.process_time() - begun)
"""


@pytest.mark.slow
def test_all_of_train_takes_seconds_and_little_memory():
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, check=True)
    rows, peak_mb, seconds = map(float, done.stdout.split())
    assert rows == 289_205
    assert peak_mb < 250
    assert seconds < 60  # making the text is in it; about 10 on a quiet core
