"""Laws of peek: it shows the loader's own batch and draws, foreign text stays text, a browser runs none of it."""

import ast
import asyncio
import base64
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from shards import audio
from shards.errors import DataError, UsageError
from shards.index import open_pack
from shards.pack import pack
from streaming import vocoder
from streaming.augment import Augment
from streaming.balance import parse_balance
from streaming.clips import read_note
from streaming.effects import apply_effects
from streaming.loader import Loader
from streaming.mix import make_order
from streaming.store import Store
from streaming.view import View, draw_view, engine_options, valid_length
from tests.conftest import write_notes
from tests.trainers.browser import CHROMIUM, browser, open_tab, pixels
from tests.trainers.runs import config
from tests.trainers.test_report import Page
from trainers.config import TrainConfig
from trainers.mel import LogMel
from trainers.options import MelConfig
from trainers.peek import look, write_peek
from trainers.peek_page import Peek, Row, Sound, bands, fair_share, render_peek

ATTACKS = (
    "</script><script>document.title='owned'</script>",
    '" onerror="document.title=\'owned\'" x="',
    "<img src=http://evil.example/x onerror=\"document.title='owned'\">{{ 7 * 191 }}",
    "</style><style>*{display:none}</style><svg onload=document.title='owned'>",
)


@pytest.fixture
def given(data: Path, tmp_path: Path) -> TrainConfig:
    return config(data, tmp_path, mel=MelConfig(n_mels=24, hop_length=200))


def batch_at(given: TrainConfig, cursor: int, *, split: str = "train"):
    pack = open_pack(given.data, split=split)
    loader = Loader(
        pack, batch_size=given.batch_size, seed=given.seed, label=given.label, crop_seconds=given.crop_seconds,
        augment=given.augment, cursor=cursor,
    )  # fmt: skip
    batch = next(iter(loader))
    loader.close()
    return batch, LogMel(given.mel, sample_rate=pack.sample_rate)


@pytest.mark.parametrize(
    ("cursor", "split", "rows"), [(0, "train", 8), (56, "train", 3), (800, "train", 5), (8, "valid", 99)]
)
def test_what_is_shown_is_the_loaders_own_batch_and_the_runs_mel(
    given: TrainConfig, cursor: int, split: str, rows: int
):
    peek = look(given, split=split, rows=rows, cursor=cursor)
    batch, mel = batch_at(given, cursor, split=split)
    count = min(rows, given.batch_size)
    assert (len(peek.rows), peek.cursor, peek.split) == (count, cursor, split)
    assert tuple(row.key for row in peek.rows) == batch.key[:count]
    assert [row.label for row in peek.rows] == [key.split("_")[0] for key in batch.key[:count]]
    after = mel(batch.waveform[:count])
    for row, waveform, picture, length in zip(peek.rows, batch.waveform, after, batch.length.tolist(), strict=False):
        assert torch.equal(torch.from_numpy(row.after.waveform), waveform)
        assert torch.equal(torch.from_numpy(row.after.mel), picture[0])
        assert (row.after.first, row.after.last) == (0, length / 16_000)


def views_of(page: str) -> list[View]:
    """The draws as a page's text has them, for whoever wants to make a crop anew."""
    told = re.findall(r"View\((.*?)\)", Page(page).text)
    return [
        View(**{name: ast.literal_eval(value) for name, value in re.findall(r"(\w+)=([^,]+)", one)}) for one in told
    ]


@pytest.mark.parametrize("cursor", [0, 64])
@pytest.mark.parametrize("pad", ["zero", "repeat"])
def test_the_draws_that_are_printed_make_the_crop_of_the_note(data: Path, tmp_path: Path, cursor: int, pad: str):
    loud = Augment(
        pitch_semitones=2, speed=1.1, random_start=True, gain_db=6, gain_probability=0.7, polarity_probability=0.5,
        noise_probability=0.5,
    )  # fmt: skip
    given = config(data, tmp_path, crop_seconds=0.9, pad=pad, augment=loud)
    store = Store(open_pack(data, split="train"))
    keys, places = store.pack.read("key")["key"].to_pylist(), store.pack.take(range(61))[1]
    peek = look(given, split="train", rows=8, cursor=cursor)
    views = views_of(render_peek(peek))
    assert len(views) == len(peek.rows) == 8
    assert len({view.noise_snr_db is None for view in views}) == len({view.gain < 0 for view in views}) == 2
    for row, view in zip(peek.rows, views, strict=True):
        number = keys.index(row.key)
        note = read_note(store, number)
        assert row.before is not None
        np.testing.assert_array_equal(row.before.waveform, note)
        made, ratio = vocoder.render(note, start=view.start, **engine_options(view))
        end = valid_length(view, note_length=16_000)
        if pad == "repeat":
            made[end:] = np.resize(made[:end], len(made) - end)
        apply_effects(made, view, valid=len(made) if pad == "repeat" else end)
        np.testing.assert_array_equal(row.after.waveform, made)
        assert (row.after.first, row.after.last) == (0, end / 16_000)
        told = dict(row.draws)
        assert told["start"] == f"{view.start / 16_000:.3f} s (sample {view.start:,})"
        drawn, rendered = 1200 * np.log2([view.pitch_ratio, ratio])
        assert told["pitch"] == f"{drawn:+.1f} cents (rendered {rendered:+.1f})"
        assert told["speed"] == f"{view.speed:.4f}"
        assert told["gain"] == f"{20 * np.log10(abs(view.gain)):+.1f} dB"
        assert told["polarity"] == ("turned" if view.gain < 0 else "kept")
        assert told["noise"] == ("none" if view.noise_snr_db is None else f"{view.noise_snr_db:.1f} dB below")
        assert told["low-pass"] == "none"
        assert (told["epoch"], told["row"]) == (str(int(cursor > 60)), str(number))
        assert row.before.first == view.start / 16_000
        assert row.before.last == min(16_000, view.start + 14_400 * view.speed) / 16_000
        # and what names them draws them
        sounding = int(places["sounding_length"][number])
        drawn = draw_view(given.augment, length=14_400, note_length=16_000, sounding_length=sounding, key=row.name)
        assert drawn == view
    store.close()


@pytest.mark.parametrize("cursor", [0, 300])
def test_a_row_of_a_mix_tells_its_pack_and_its_repeat(data: Path, tmp_path: Path, cursor: int):
    write_notes(tmp_path, split="train", count=9, length=9_000, families=2)
    pack(tmp_path, tmp_path / "other", split="train")
    places, family = (str(data), str(tmp_path / "other")), "instrument_family_str"
    given = config(Path(f"{places[0]}=2,{places[1]}=1"), tmp_path, balance=f"{family}=1", batch_size=30)
    packs = tuple(open_pack(place, split="train") for place in places)
    order = make_order(packs, seed=0, weights=[2, 1], balance=parse_balance(f"{family}=1"))
    loader = Loader(
        packs, order=order, batch_size=30, label=family, crop_seconds=0.5, augment=given.augment, cursor=cursor
    )
    batch, slots = next(iter(loader)), order.slots(cursor, batch_size=30, slots=range(30))
    peek = look(given, split="train", rows=30, cursor=cursor)
    assert tuple(row.key for row in peek.rows) == batch.key
    assert all(
        torch.equal(torch.from_numpy(row.after.waveform), waveform)
        for row, waveform in zip(peek.rows, batch.waveform, strict=True)
    )
    told = [dict(row.draws) for row in peek.rows]
    assert [one["pack"] for one in told] == [places[pack] for pack in slots.pack]
    assert [(one["row"], one["repeat"]) for one in told] == [
        (str(row), str(repeat)) for row, repeat in zip(slots.row, slots.repeat, strict=True)
    ]
    assert set(slots.pack) == {0, 1}
    assert max(slots.repeat) > 0
    assert dict(peek.settings)["fingerprint"] == order.fingerprint
    assert dict(peek.settings)["data"] == f"{places[0]} = 2, {places[1]} = 1"
    loader.close()


def test_a_lone_pack_without_balance_tells_neither(given: TrainConfig):
    (row,) = look(given, split="train", rows=1, cursor=0).rows
    assert not {"pack", "repeat"} & set(dict(row.draws))


def test_no_password_of_any_pack_is_told(given: TrainConfig, store: str, tmp_path: Path):
    write_notes(tmp_path, split="train", count=9)
    secret = store.replace("PATH", "secret").replace("://", "://me:hushhush@", 1)
    pack(tmp_path, secret, split="train")
    page = render_peek(
        look(dataclasses.replace(given, data=f"{given.data}=1,{secret}=1"), split="train", rows=8, cursor=0)
    )
    assert "hushhush" not in page
    assert page.count("s3://me:***@bucket/secret") == 5  # of 8 rows every other one's, and the settings'


def test_padding_and_what_is_left_out_are_marked(data: Path, tmp_path: Path):
    still = {"augment": Augment(), "crop_seconds": 1.25}
    page = render_peek(look(config(data, tmp_path, **still), split="train", rows=1, cursor=0))
    assert page.count('class="veil padding hatch" style="left: 80.00%; right: 0.00%"') == 1
    assert "the last 0.25 s padding" in page
    assert 'class="veil left-out"' not in page
    cut = render_peek(look(config(data, tmp_path, **still | {"crop_seconds": 0.25}), split="train", rows=1, cursor=0))
    assert cut.count('class="veil left-out" style="left: 25.00%; right: 0.00%"') == 1
    assert cut.count('class="heard" style="left: 0.00%; right: 75.00%"') == 1
    again = render_peek(look(config(data, tmp_path, pad="repeat", **still), split="train", rows=1, cursor=0))
    assert again.count('class="veil repeated hatch" style="left: 80.00%; right: 0.00%"') == 1
    assert "the note again after 1.00 s" in again
    assert "s padding" not in cut + again
    assert "(rendered" not in cut


def test_a_padded_notes_picture_is_its_own_as_in_training(data: Path, tmp_path: Path):
    given = config(data, tmp_path, crop_seconds=1.5, augment=Augment(), mel=MelConfig(reference="fixed"))
    (row,) = look(given, split="train", rows=1, cursor=0).rows
    length = round(row.after.last * 16_000)
    alone = LogMel(given.mel, sample_rate=16_000)(torch.from_numpy(row.after.waveform[None, :length]))[0, 0].numpy()
    frames = alone.shape[1]
    assert frames < row.after.mel.shape[1]
    np.testing.assert_allclose(row.after.mel[:, :frames], given.mel.draw(alone), atol=1e-5)
    assert not row.after.mel[:, frames:].any()


def test_asks_nothing_of_a_network_and_is_the_same_bytes_twice(given: TrainConfig):
    page = render_peek(look(given, split="train", rows=8, cursor=0))
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(parsed.tags)
    assert len(parsed.addresses) == 8 * 4  # two mels and two sounds a row
    assert all(address.startswith("data:") for address in parsed.addresses)
    assert "http:" not in page
    assert "https:" not in page
    assert "default-src 'none'" in page
    assert page == render_peek(look(given, split="train", rows=8, cursor=0))


def sounds_of(page: str) -> list[np.ndarray]:
    """What its players have, in order, (length,) int16 each."""
    found = [address.split(",")[1] for address in Page(page).addresses if address.startswith("data:audio/flac")]
    return [soundfile.read(io.BytesIO(base64.b64decode(text)), dtype="int16")[0] for text in found]


def test_the_players_have_what_is_drawn(given: TrainConfig):
    peek = look(given, split="train", rows=8, cursor=0)
    drawn = [sound.waveform for row in peek.rows for sound in (row.before, row.after) if sound]
    for heard, waveform in zip(sounds_of(render_peek(peek)), drawn, strict=True):
        np.testing.assert_array_equal(heard, np.clip(np.round(waveform * 32768), -32768, 32767))


def test_stays_light_with_long_notes_and_plays_what_is_heard_of_them(tmp_path: Path):
    root, generator = write_notes(tmp_path, split="train", count=8, length=480_000), np.random.default_rng(1)
    for path in (root / "audio").iterdir():  # noise, of which FLAC saves nothing
        noise = generator.integers(-(1 << 15), 1 << 15, 480_000).astype(np.int16)
        path.write_bytes(audio.encode(noise, sample_rate=16_000, codec="wav"))
    pack(tmp_path, tmp_path / "pack", split="train")
    peek = look(config(tmp_path / "pack", tmp_path), split="train", rows=8, cursor=0)
    page = render_peek(peek)
    assert len(page) < 3_000_000
    assert Page(page).text.count("The player has") == 8
    assert len({row.before.first for row in peek.rows if row.before}) > 4
    for row, heard in zip(peek.rows, sounds_of(page)[::2], strict=True):
        assert row.before is not None
        first, last = (round(at * 16_000) for at in (row.before.first, row.before.last))
        inside = np.round(row.before.waveform[first:last] * 32768).astype(np.int16)
        assert inside.tobytes() in heard.tobytes()


@pytest.mark.parametrize("budget", [0, 7, 100, 1000, 5000])
def test_a_fair_share_is_the_largest_that_fits(budget: int):
    lengths = [100, 5, 900, 30, 900]
    share = fair_share(lengths, budget=budget)
    assert sum(min(length, share) for length in lengths) <= budget
    assert share >= max(lengths) or sum(min(length, share + 1) for length in lengths) > budget


@pytest.mark.parametrize("mel", [MelConfig(), MelConfig(n_mels=128, hop_length=160), MelConfig(f_min=200, f_max=4000)])
def test_a_tone_lies_at_its_tick(mel: MelConfig):
    ticks = bands(mel)
    assert len(ticks) >= 3
    for text, height in ticks:
        number, unit = text.split()
        hertz = float(number) * (1000 if unit == "kHz" else 1)
        tone = torch.sin(2 * torch.pi * hertz * torch.arange(16_000) / 16_000)
        loudest = int(LogMel(mel, sample_rate=16_000)(tone[None])[0, 0].mean(dim=1).argmax())
        assert abs((loudest + 0.5) / mel.n_mels - height) <= 1 / mel.n_mels, text


@pytest.mark.parametrize(("length", "click"), [(16_000, 48 * 256), (700, 2 * 256), (200_000, 586 * 256)])
def test_a_click_lies_above_itself(length: int, click: int):
    """The mel and the waveform have one axis of time, in notes shorter than a frame and in long ones."""
    wave, mel = np.zeros(length, np.float32), MelConfig()
    wave[click] = 1
    heard = np.pad(wave, (0, max(0, mel.n_fft - length)))
    sound = Sound(
        waveform=wave, mel=LogMel(mel, sample_rate=16_000)(torch.from_numpy(heard)[None])[0, 0].numpy(), first=0, last=1
    )
    page = render_peek(one_row(sound, mel=mel))
    left, width = (float(text) / 100 for text in re.findall(r'<img .*style="left: (\S+)%; width: (\S+)%"', page)[0])
    address = next(address for address in Page(page).addresses if address.startswith("data:image/png"))
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(address.split(",")[1])))[..., :3].sum(axis=(0, 2))
    brightest = np.flatnonzero(picture == picture.max()).mean()
    column = width / len(picture)
    of_a_column = 0.1 if len(picture) == sound.mel.shape[1] else 1  # a long note's stands for several frames
    assert abs(left + (brightest + 0.5) * column - click / length) <= of_a_column * column


def one_row(sound: Sound, *, mel: MelConfig) -> Peek:
    row = Row(
        key="k", label="l", view=View(start=0, pitch_ratio=1.0, speed=1.0, length=len(sound.waveform)), draws=(),
        name=(0, 0, 0, "k", 0), before=None, after=sound, rest="padding", fault="lost", masked=False,
    )  # fmt: skip
    return Peek(split="train", cursor=0, batch_size=1, sample_rate=16_000, mel=mel, rows=(row,), settings=())


@pytest.mark.parametrize(
    ("options", "says", "peak"),
    [({"on_bad_row": "mask"}, "The row is masked", 0), ({"verify_reads": False}, "Reads aren’t verified", 0.3)],
)
def test_a_damaged_row_is_shown_as_the_network_gets_it(
    data: Path, tmp_path: Path, options: dict[str, Any], says: str, peak: float
):
    shutil.copytree(data, tmp_path / "bad")
    given = config(tmp_path / "bad", tmp_path, **options)
    (lost,) = (row for row in look(given, split="train", rows=8, cursor=0).rows[2:3])
    store = Store(open_pack(tmp_path / "bad", split="train"))
    number = store.pack.read("key")["key"].to_pylist().index(lost.key)
    shard, part, at = store.pack.find(number)
    with (tmp_path / "bad/train" / store.pack.shards[shard].name).open("r+b") as tar:
        tar.seek(int(part.places["offset"][at]) + 50)
        tar.write(b"?")
    peek = look(given, split="train", rows=8, cursor=0)
    told = [(row.key == lost.key, row.before is None, bool(row.fault)) for row in peek.rows]
    assert set(told) == {(True, True, True), (False, False, False)}
    row = peek.rows[2]
    assert abs(row.after.waveform).max() >= peak
    assert row.masked == (peak == 0) == (not row.after.waveform.any())
    text = Page(render_peek(peek)).text
    assert says in text
    assert f"{lost.key}, offset {part.places['offset'][at]} doesn't match its crc32" in text
    store.close()


def test_notes_of_a_moment_and_of_silence_are_shown(tmp_path: Path):
    root = write_notes(tmp_path, split="train", count=8, length=300)
    for path in sorted((root / "audio").iterdir())[:4]:
        path.write_bytes(audio.encode(np.zeros(300, np.int16), sample_rate=16_000, codec="wav"))
    pack(tmp_path, tmp_path / "pack", split="train")
    peek = look(config(tmp_path / "pack", tmp_path), split="train", rows=8, cursor=0)
    assert all(np.isfinite(sound.mel).all() for row in peek.rows for sound in (row.before, row.after) if sound)
    assert render_peek(peek).count("veil padding hatch") == 8


@pytest.fixture
def hostile(data: Path, tmp_path: Path) -> Path:
    """A pack whose keys and class names are attacks."""
    folder = tmp_path / "hostile<script>alert(1)<"
    shutil.copytree(data / "train", folder / "train")
    index = folder / "train/index.parquet"
    table = pq.read_table(index)
    about = json.loads(table.schema.metadata[b"notestream"])
    for name in ("key", "instrument_family_str"):
        text = [f"{ATTACKS[row % 4]}{row if name == 'key' else ''}" for row in range(len(table))]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(text))
    about["classes"]["instrument_family_str"] = sorted(ATTACKS)
    metadata = table.schema.metadata | {b"notestream": json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), index, row_group_size=10)
    return folder


def test_foreign_text_stays_text(hostile: Path, tmp_path: Path):
    peek = look(config(hostile, tmp_path), split="train", rows=8, cursor=0)
    page = Page(render_peek(peek))
    assert "script" not in page.tags
    assert page.tags.count("style") == 1
    assert page.tags.count("img") == page.tags.count("svg") == page.tags.count("audio") == 16
    assert all(address.startswith("data:") for address in page.addresses)
    assert all(row.key in page.text and row.label in page.text for row in peek.rows)
    assert "1337" not in page.text


def test_is_written_whole_or_not_at_all(given: TrainConfig, tmp_path: Path):
    out = tmp_path / "new/page.html"
    write_peek(given, out=out, rows=1)
    before = out.read_bytes()
    assert before.startswith(b"<!doctype html>")
    shutil.copytree(given.data, tmp_path / "bad")
    for tar in (tmp_path / "bad/train").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(DataError, match="doesn't match its crc32"):
        write_peek(config(tmp_path / "bad", tmp_path), out=out)
    assert out.read_bytes() == before
    assert [one.name for one in out.parent.iterdir()] == ["page.html"]


def test_errors_speak(given: TrainConfig, data: Path, tmp_path: Path):
    for change, options, message in (
        ({}, {"rows": 0}, r"rows must be at least 1, got 0"),
        ({}, {"cursor": -8}, r"cursor must be a multiple of lanes \(1\) and not negative, got -8"),
        ({}, {"split": "dev"}, r"split 'dev' is not in .* \(it holds the splits test, train, valid\)"),
        ({"label": "pich"}, {}, r"label 'pich' is not a column of text or whole numbers"),
        ({"data": None}, {}, r"data must be named: --data DST"),
        ({"mel": MelConfig(f_max=9000)}, {}, r"mel f_max must be at most 8000 Hz"),
    ):
        with pytest.raises(UsageError, match=message):
            write_peek(
                config(data, tmp_path, **change) if "data" not in change else TrainConfig(),
                out=tmp_path / "x",
                **options,
            )
    assert not (tmp_path / "x").exists()
    with pytest.raises(UsageError, match=r"out must be a file, got the folder .*: take .*/peek\.html"):
        write_peek(given, out=tmp_path)


# ---- a real browser


FACTS = """new Promise(async done => {
    if (document.readyState != "complete") await new Promise(go => addEventListener("load", go));
    const sounds = [...document.querySelectorAll("audio")], all = [...document.querySelectorAll("*")];
    const loaded = sound => new Promise(go => { sound.onloadedmetadata = sound.onerror = go; sound.load(); });
    await Promise.all(sounds.map(sound => sound.readyState || loaded(sound)));
    done({
        title: document.title,
        tags: all.map(e => e.tagName.toLowerCase()),
        handlers: all.flatMap(e => [...e.attributes]).filter(a => a.name.startsWith("on")).length,
        seconds: sounds.map(s => s.duration),
        widths: [...document.querySelectorAll(".canvas img")].map(e => e.naturalWidth),
        hidden: all.filter(e => e.matches(".card, .canvas, audio") && !e.getBoundingClientRect().height).length,
        wide: document.documentElement.scrollWidth - innerWidth,
    });
})"""


async def visit(host: str, page: Path, *, width: int, scheme: str) -> tuple[dict[str, Any], list[str], np.ndarray]:
    """Open a page: what is in it, the addresses asked for, and how it looks, (height, width, 4)."""
    async with open_tab(host, page, width=width, scheme=scheme) as tab:
        facts, picture = await tab.run(FACTS), await tab.picture()
    page.with_suffix(f".{scheme}.png").write_bytes(picture)
    return facts, tab.asked, pixels(picture)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_browser_plays_every_sound_and_runs_nothing_of_the_data(hostile: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    write_peek(config(hostile, tmp_path), out=page, rows=3)
    with browser(tmp_path / "profile") as host:
        for width, scheme in ((1200, "light"), (400, "dark")):
            facts, asked, picture = asyncio.run(visit(host, page, width=width, scheme=scheme))
            assert facts["title"] == "train at cursor 0"
            assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(facts["tags"])
            assert {name: facts["tags"].count(name) for name in ("img", "svg", "audio", "style")} == {
                "img": 6, "svg": 6, "audio": 6, "style": 1,
            }  # fmt: skip
            assert (facts["handlers"], facts["hidden"]) == (0, 0)
            assert facts["seconds"] == pytest.approx([1.0, 0.5] * 3, abs=1e-3)
            assert all(facts["widths"])
            assert facts["wide"] <= 0, "it scrolls sideways"
            assert asked == [page.as_uri()]
            assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 500
