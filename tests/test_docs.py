"""Every page tells the truth: its code runs, its vectors are the code's, its links, commands and flags exist."""

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from shards import audio, bijection
from shards.door import run_door
from shards.index import open_pack
from streaming.augment import Augment, preset
from streaming.loader import Loader
from streaming.order import make_table
from streaming.plan import make_plan
from streaming.select import draw_rows

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
ROOMS = ("shards", "streaming", "trainers")
NO_FLAGS_OF_OURS = {"--extra", "--help"}


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> str:
    text = request.param.read_text() if request.param.exists() else ""
    if not text.strip():
        pytest.skip(f"{request.param.name} isn't written yet")
    return text


@pytest.fixture
def folder(request: pytest.FixtureRequest, page: str) -> Path:
    return request.node.callspec.params["page"].parent


def read(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [found[2] for found in fences(text) if found[1] == language]


def fences(text: str) -> Iterator[re.Match[str]]:
    return re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def in_backticks(text: str) -> list[str]:
    """Return what stands in backticks, a phrase cut over two lines as one."""
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(text))]


def run_block(text: str, *, holding: str) -> dict[str, Any]:
    """Run the page's one Python block that holds a text, and return its names."""
    found = [block for block in blocks(text, "python") if holding in block]
    assert len(found) == 1
    names: dict[str, Any] = {}
    exec(compile(found[0], "page", "exec"), names)
    return names


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_reader_of_the_format_page_reads_a_pack(data: Path, split: str):
    names, pack = run_block(read("docs/format.md"), holding="def read_split"), open_pack(data, split=split)
    found = list(names["read_split"](data / split))
    assert [key for key, _, _ in found] == pack.read("key")["key"].to_pylist()
    lengths = pack.read("length", "sounding_length").to_pylist()
    for row, (key, labels, file) in zip(lengths, found, strict=True):
        header = audio.read_header(file, name=key)
        samples = audio.decode_pcm16(file, header=header)
        assert labels["note_str"] == key
        assert len(samples) == row["length"]
        loud = np.flatnonzero(1000 * np.abs(samples.astype(int)) > np.abs(samples.astype(int)).max())
        assert (loud[-1] + 1 if len(loud) else 0) == row["sounding_length"]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_format_page_reads_the_shards(data: Path, split: str):
    names, pack = run_block(read("docs/format.md"), holding="def read_shards"), open_pack(data, split=split)
    assert list(names["read_shards"](data / split)) == [dataclasses.astuple(shard) for shard in pack.shards]


def test_the_reader_of_the_format_page_is_short():
    block = next(block for block in blocks(read("docs/format.md"), "python") if "def read_split" in block)
    assert len([line for line in block.split("def ")[1].splitlines() if line.strip()]) <= 15


def test_the_format_page_lists_every_column_and_the_fingerprint(data: Path):
    text, pack = read("docs/format.md"), open_pack(data, split="train")
    for column in pack.schema.names:
        assert re.search(rf"\b{column}\b", text), column
    told = "[" + ", ".join(f'["{one.name}", {one.rows}, "{one.hash}"]' for one in pack.shards) + "]"
    assert xxhash.xxh3_128_hexdigest(told.encode()) == pack.fingerprint


def vectors() -> list[dict[str, Any]]:
    (block,) = blocks(read("docs/order.md"), "json")
    return json.loads(block)


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: next(iter(vector)))
def test_the_golden_vectors_are_the_codes_and_the_pages(vector: dict[str, Any]):
    page = run_block(read("docs/order.md"), holding="def permute")
    if "encode" in vector:
        words = tuple(vector["encode"])
        assert bijection.encode_words(words).hex() == page["encode_words"](words).hex() == vector["hex"]
    elif "permute" in vector:
        positions, n, key = vector["permute"], vector["n"], vector["key"]
        assert bijection.permute(positions, n, *key).tolist() == vector["gives"]
        assert [page["permute"](position, n, *key) for position in positions] == vector["gives"]
    elif "uniforms" in vector:
        count, key = vector["uniforms"], vector["key"]
        assert bijection.uniforms(count, *key).tolist() == page["uniforms"](count, *key) == vector["gives"]
    elif "table" in vector:
        assert make_table(vector["table"]).tolist() == vector["gives"]
    elif "limit" in vector:
        assert draw_rows(vector["limit"], rows=vector["rows"]).tolist() == vector["gives"]
    else:
        size = vector["batch_size"]
        rows, _ = make_plan(**vector["plan"]).slots(vector["cursor"], batch_size=size, slots=range(size))
        assert rows.tolist() == vector["gives"]


def test_the_permutation_of_the_order_page_is_the_codes():
    page = run_block(read("docs/order.md"), holding="def permute")
    for n in (1, 2, 3, 7, 64, 101, 1000):
        expected = bijection.permute(np.arange(n), n, 11, "law").tolist()
        assert [page["permute"](position, n, 11, "law") for position in range(n)] == expected
    assert page["uniforms"](19, -5, "a") == bijection.uniforms(19, -5, "a").tolist()


def test_the_transforms_of_the_augmentation_page_run(data: Path):
    page = run_block(read("docs/augmentation.md"), holding="def tremolo")
    own = [page["tremolo"], page["distortion"]]
    loader = Loader(
        open_pack(data, split="train"), batch_size=8, label="pitch", crop_seconds=0.5, transforms=own
    )  # fmt: skip
    assert next(iter(loader)).waveform.isfinite().all()


def test_the_augmentation_page_lists_every_option_and_preset():
    text = read("docs/augmentation.md")
    for field in dataclasses.fields(Augment):
        told = f"--augment.{field.name}".replace("_", "-")
        assert f"`{told}`" in text or f"`{told.replace('augment.', 'augment.no-')}`" in text, told
    for name in ("none", "light", "default", "strong"):
        chosen = preset(name)
        (row,) = re.findall(rf"^\| {name} \| (.*) \|$", text, re.MULTILINE)
        cells = [cell.strip() for cell in row.split("|")]
        low_pass = f"{chosen.low_pass:g}, half of the notes" if chosen.low_pass < 1 else ""
        assert cells[:2] == [f"{chosen.pitch_semitones:g}", f"{chosen.speed:g}"]
        start, gain = "random" if chosen.random_start else "first sample", f"{chosen.gain_db:g} dB"
        assert cells[2:5] == [start, low_pass, gain if chosen.gain_db else ""]
        assert [bool(cell) for cell in cells[5:]] == [chosen.polarity_probability > 0, chosen.noise_probability > 0]


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_link_leads_somewhere(page: str, folder: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = folder / name if name else folder
        assert path.exists(), target
        if anchor:
            text = path.read_text() if path.is_file() else page
            assert anchor in {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}, target


def test_every_path_and_name_exists(page: str):
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".venv", "data", "runs"}
    for phrase in in_backticks(page):
        for word in phrase.split():
            top = word.split("/")[0]
            if "/" in word and top in tops and not re.search(r"[A-Z*{<]", word):
                assert (ROOT / word.split("::")[0]).exists(), word
            elif re.fullmatch(r"[\w.-]+\.(toml|yaml|py)", word) and word != "train.py":
                assert (ROOT / word).exists() or list(ROOT.glob(f"*/{word}")), word
            elif re.fullmatch(rf"({'|'.join(ROOMS)})(\.\w+)+", word):
                assert resolves(word), word


def resolves(name: str) -> bool:
    """Tell whether a dotted name is a module of ours or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def commands(text: str) -> list[str]:
    """Return shell lines, whole, and what stands in backticks."""
    lines = [line for block in fences(text) for line in re.sub(r"\\\n\s*", " ", block[2]).splitlines()]
    return lines + in_backticks(text)


def calls(text: str) -> list[tuple[str, str, list[str]]]:
    """Return each call of a door as (room, verb, flags)."""
    found = []
    for line in commands(text):
        line = re.split(r"\s#\s", line)[0]
        line = re.sub(r"trainers/train\.py --(?= |$)", "-m trainers train", line)
        for room, rest in re.findall(rf"-m ({'|'.join(ROOMS)})\b([^|;&]*)", line):
            words = rest.split()
            if words and not words[0].isupper() and not words[0].startswith("-"):
                flags = [word.split("=")[0] for word in words[1:] if word.startswith("--")]
                found.append((room, words[0].rstrip(")."), flags))
    return found


@functools.cache
def flags_of(room: str, verb: str) -> frozenset[str]:
    """Ask a verb for its flags."""
    module, said = importlib.import_module(f"{room}.__main__"), io.StringIO()
    door = getattr(module, "main", lambda args: run_door(room, module.VERBS, args))
    with pytest.MonkeyPatch.context() as env, contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        env.setenv("COLUMNS", "200")
        env.setenv("TERM", "dumb")
        door([verb, "--help"])
    assert ended.value.code == 0, f"python -m {room} {verb} --help"
    return frozenset(re.findall(r"--[a-z][a-z0-9.-]*", said.getvalue()))


def verbs_of(room: str) -> list[str]:
    return list(importlib.import_module(f"{room}.__main__").VERBS)


def test_every_command_exists_with_its_flags(page: str):
    for room, verb, flags in calls(page):
        assert verb in verbs_of(room), f"python -m {room} {verb}"
        unknown = set(flags) - flags_of(room, verb)
        assert not unknown, f"python -m {room} {verb} {unknown}"


def test_every_flag_that_is_named_alone_is_some_verbs(page: str):
    known = {flag for room in ROOMS for verb in verbs_of(room) for flag in flags_of(room, verb)} | NO_FLAGS_OF_OURS
    for phrase in in_backticks(page):
        if phrase.startswith("--") and phrase != "--":
            assert phrase.split()[0].split("=")[0] in known, phrase


def test_every_make_target_exists(page: str):
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    for line in commands(page):
        if called := re.match(r"make ([a-z-]+)", line.strip()):
            assert called[1] in targets, line


def test_the_checks_of_this_file_would_notice():
    text = "```sh\npython -m trainers train \\\n  --dta X\n```\nand `python -m shards bake` and [here](nowhere.md)"
    assert calls(text) == [("trainers", "train", ["--dta"]), ("shards", "bake", [])]
    assert "--dta" not in flags_of("trainers", "train")
    assert not resolves("streaming.augment.presets")
    assert resolves("streaming.augment.preset")
