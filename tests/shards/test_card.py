"""The card: Hugging Face loads a pack by its path alone, to the byte; foreign text is text; what isn't ours stays."""

import gc
import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import yaml

from shards import audio, format
from shards.card import MARK, Split, code, join_labels, make_card, write_cards
from shards.indexing import index_shards
from shards.pack import pack
from shards.remote import locate
from tests.conftest import tone, write_notes

Load = Callable[..., Any]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Import datasets with no way to any network, and with caches of its own: it reads its environment only once."""
    with pytest.MonkeyPatch.context() as env:
        env.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
            env.setenv(name, "1")
        found = importlib.import_module("datasets")
    found.disable_progress_bars()
    yield found


@pytest.fixture
def load(hub: ModuleType, tmp_path: Path) -> Load:
    """Load by a path alone; sound as it was stored, since decoding needs FFmpeg."""

    def found(path: Path, *, streaming: bool = False) -> dict[str, list[dict[str, Any]]]:
        loaded = hub.load_dataset(str(path), streaming=streaming, cache_dir=str(tmp_path / "cache"))
        for name, split in loaded.items():
            for codec in audio.CODECS:
                if codec in split.features:
                    loaded[name] = loaded[name].cast_column(codec, hub.Audio(decode=False))
        return {name: list(split) for name, split in loaded.items()}

    return found


def fresh(data: Path, to: Path) -> Path:
    """Copy a pack without its cards."""
    shutil.copytree(data, to, ignore=shutil.ignore_patterns("README.md"))
    return to


def with_cards(data: Path, *, licence: str = "cc-by-4.0") -> Path:
    write_cards(locate(data), license=licence)
    return data


def head_of(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text().split("---\n")[1])


def rewrite_head(path: Path, **changes: Any) -> None:
    head = {name: value for name, value in (head_of(path) | changes).items() if value is not None}
    path.write_text(f"---\n{yaml.safe_dump(head)}---\n")


def assert_rows(rows: list[dict[str, Any]], folder: Path) -> None:
    """Hold loaded rows against the index and the bytes in the tars."""
    table = pq.read_table(folder / format.INDEX_NAME)
    codec = json.loads(table.schema.metadata[b"notestream"])["codec"]
    expected = table.to_pylist()
    assert [row["__key__"] for row in rows] == [row["key"] for row in expected]
    for row, place in zip(rows, expected, strict=True):
        tar = (folder / place["shard"]).read_bytes()
        assert row[codec]["bytes"] == tar[place["offset"] : place["offset"] + place["size"]]
        assert row["json"] == {name: place[name] for name in table.column_names[7:]}
        assert row["__url__"].endswith(f"{folder.name}/{place['shard']}")


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_gives_the_audio_rows_by_path_alone(data: Path, tmp_path: Path, load: Load, streaming: bool):
    ours = with_cards(fresh(data, tmp_path / "pack"))
    found = load(ours, streaming=streaming)
    assert list(found) == ["train", "valid", "test"]
    for split, rows in found.items():
        assert_rows(rows, ours / split)
        assert load(ours / split, streaming=streaming) == {split: rows}


def test_one_tar_a_split_is_not_taken_for_its_index(notes: Path, tmp_path: Path, load: Load):
    for split in ("valid", "test"):
        pack(notes, tmp_path / "pack", split=split, codec="flac")
        assert len(list((tmp_path / "pack" / split).glob("*.tar"))) == 1
    assert "offset" in load(fresh(tmp_path / "pack", tmp_path / "bare"))["validation"][0]
    for split, rows in load(with_cards(tmp_path / "pack")).items():
        assert_rows(rows, tmp_path / "pack" / split)


def test_a_list_that_is_empty_in_the_first_rows_keeps_its_type(tmp_path: Path, load: Load, hub: ModuleType):
    source = write_notes(tmp_path, split="train", count=23)
    pack(tmp_path, tmp_path / "probe", split="train", rows_per_shard=10)
    last = pq.read_table(tmp_path / "probe/train/index.parquet")["key"][-1].as_py()
    examples = json.loads((source / "examples.json").read_text())
    for key, note in examples.items():
        note["qualities_str"] = ["dark"] if key == last else []
    (source / "examples.json").write_text(json.dumps(examples))
    pack(tmp_path, tmp_path / "pack", split="train", rows_per_shard=10)
    rows = load(with_cards(tmp_path / "pack"))["train"]
    assert_rows(rows, tmp_path / "pack/train")
    assert [row["json"]["qualities_str"] for row in rows] == [[]] * 22 + [["dark"]]
    rewrite_head(tmp_path / "pack/README.md", dataset_info=None)
    with pytest.raises(hub.exceptions.DatasetGenerationError):
        load(tmp_path / "pack")


def test_a_tar_that_lost_rows_is_refused(data: Path, tmp_path: Path, load: Load, hub: ModuleType):
    ours = with_cards(fresh(data, tmp_path / "pack"))
    (tar,) = (ours / "test").glob("*-000001.tar")
    tar.write_bytes(bytes(1024))  # an end mark: to tarfile an empty tar
    with pytest.raises(hub.exceptions.NonMatchingSplitsSizesError, match="num_examples=11"):
        load(ours)


@pytest.mark.parametrize("codec", audio.CODECS)
def test_datasets_decodes_the_sound(notes: Path, tmp_path: Path, hub: ModuleType, codec: Any):
    decoders = pytest.importorskip("torchcodec.decoders")
    try:
        decoders.AudioDecoder(audio.encode(tone(60, length=800, sounding=800), sample_rate=16_000, codec="wav"))
    except RuntimeError:
        pytest.skip("torchcodec finds no FFmpeg")
    pack(notes, tmp_path / "pack", split="test", codec=codec)
    path = str(with_cards(tmp_path / "pack"))
    rows = hub.load_dataset(path, split="test", cache_dir=str(tmp_path / "cache"))
    raw = rows.cast_column(codec, hub.Audio(decode=False))
    for row, stored in zip(rows, raw, strict=True):
        data = stored[codec]["bytes"]
        samples = audio.decode(data, header=audio.read_header(data, name=row["__key__"]))
        assert row[codec]["sampling_rate"] == 16_000
        assert (row[codec]["array"] == samples).all()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its tars open
@pytest.mark.parametrize("folder", [".", "train"])
def test_the_snippets_of_the_card_run(data: Path, tmp_path: Path, hub: ModuleType, monkeypatch, folder: str):
    ours = with_cards(fresh(data, tmp_path / "pack"))
    text = (ours / folder / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(ours / folder)
    found: list[dict[str, Any]] = [{}, {}, {}]
    for block, names in zip(blocks, found, strict=True):
        exec(compile(block, "card", "exec"), names)
    gc.collect()
    last = pq.read_table(ours / "train/index.parquet").to_pylist()[-1]
    assert found[0]["key"] == found[1]["key"] == last["key"]
    assert found[0]["sound"] == found[1]["sound"]
    assert found[0]["labels"] == json.loads(found[1]["labels"])
    assert found[2]["waveform"].shape == (32, 16_000)


def test_the_same_pack_gives_the_same_card_and_a_second_one_is_not_written(data: Path, tmp_path: Path):
    one, two = (with_cards(fresh(data, tmp_path / name)) for name in ("one", "two"))
    cards = sorted(path.relative_to(one) for path in one.rglob("README.md"))
    assert [str(path) for path in cards] == ["README.md", "test/README.md", "train/README.md", "valid/README.md"]
    for card in cards:
        assert (one / card).read_bytes() == (two / card).read_bytes()
        assert str(tmp_path) not in (one / card).read_text()
        os.utime(one / card, (1, 1))
    with_cards(one)
    assert all((one / card).stat().st_mtime == 1 for card in cards)


def test_the_head_tells_licence_task_and_size(data: Path, tmp_path: Path):
    ours = with_cards(fresh(data, tmp_path / "pack"))
    head = head_of(ours / "README.md")
    assert (head["license"], head["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert head["task_categories"] == ["audio-classification"]
    assert [split["num_examples"] for split in head["dataset_info"]["splits"]] == [61, 17, 11]
    assert "| `train` | 61 | 0.02 | 7 | wav, 16,000 Hz |" in (ours / "README.md").read_text()
    assert "| `instrument_family_str` | string | 3 |" in (ours / "README.md").read_text()


def test_a_licence_once_told_is_kept_until_another_is(data: Path, tmp_path: Path):
    ours = with_cards(fresh(data, tmp_path / "pack"), licence="unknown")
    for given, told in (("unknown", "unknown"), ("a: b\n---\n", "a: b ---"), ("unknown", "a: b ---"), ("mit", "mit")):
        with_cards(ours, licence=given)
        assert head_of(ours / "README.md")["license"] == head_of(ours / "valid/README.md")["license"] == told


def test_a_card_of_ones_own_is_left_alone(data: Path, tmp_path: Path, capsys):
    ours = fresh(data, tmp_path / "pack")
    (ours / "README.md").write_text("license: mine")
    with_cards(ours, licence="unknown")
    assert (ours / "README.md").read_text() == "license: mine"
    assert f"{ours / 'README.md'} is no card of ours and stays as it is: " in capsys.readouterr().err
    assert head_of(ours / "train/README.md")["license"] == "unknown"
    edited = (ours / "train/README.md").read_text().replace(MARK, "")
    (ours / "train/README.md").write_text(edited)
    with_cards(ours)
    assert (ours / "train/README.md").read_text() == edited


def test_foreign_names_are_neither_yaml_nor_markdown_nor_html(tmp_path: Path, load: Load):
    names = [
        "a: [b",
        "```",
        "<script>",
        "| x |",
        "---",
        "_type",
        "dtype",
        "struct",
        "ü\u2028\u202e",
        "{{ 777 * 777 }}",
        "'\"",
    ]
    (tmp_path / "src").mkdir()
    for key in "ab":
        wave = audio.encode(tone(60, length=800, sounding=800), sample_rate=8_000, codec="wav")
        (tmp_path / f"src/{key}.wav").write_bytes(wave)
    rows = [{"filename": f"{key}.wav"} | dict.fromkeys(names, f"`{key}` <b>") for key in "ab"]
    (tmp_path / "src/meta.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pack(tmp_path / "src", tmp_path / "pack", split="a-b", layout="folders", table="meta.jsonl")
    (rows,) = load(with_cards(tmp_path / "pack", licence="<b>`mine`</b>")).values()
    assert_rows(rows, tmp_path / "pack/a-b")
    assert set(rows[0]["json"]) == set(names)
    body = (tmp_path / "pack/README.md").read_text().split(MARK)[1]
    assert str(777 * 777) not in body
    prose = re.sub(r"^```python\n.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"<|\u2028|\u202e", re.sub(r"`[^`\n]+`", "", prose))
    assert code("a|b`c\nd") == r"`a\|b'c d`"
    assert code(" \n") == ""


def test_a_dash_in_a_splits_name_is_told_as_datasets_has_it(notes: Path, data: Path, tmp_path: Path, load: Load):
    for split in ("a-b", "a_b"):
        pack(notes / "nsynth-test", tmp_path / "pack", split=split)
    found = load(with_cards(tmp_path / "pack"))
    assert {name: len(rows) for name, rows in found.items()} == {"a_b": 11, "a_b_": 11}


def split_of(*labels: tuple[str, pa.DataType], name: str = "train", rate: int = 8_000, codec: str = "wav") -> Split:
    return Split(
        name=name, alias=name, tars="*.tar", shards=1, rows=1, bytes=1, hours=1.0, sample_rate=rate, codec=codec,
        labels=pa.schema(labels), classes={}, source="",
    )  # fmt: skip


def test_a_label_has_one_type_that_holds_it_in_all_splits():
    texts, bytes_ = pa.list_(pa.string()), pa.list_(pa.int8())
    one = split_of(("only", pa.string()), ("both", pa.int64()), ("no", pa.string()), ("list", texts), ("n", bytes_))
    other = split_of(("both", pa.float64()), ("no", pa.int64()), ("list", texts), ("n", pa.list_(pa.int64())))
    assert join_labels([one, other]) == {
        "only": {"dtype": "string"}, "both": {"dtype": "float64"}, "no": None, "list": {"list": "string"},
        "n": {"list": "int64"},
    }  # fmt: skip
    assert join_labels([one, other, one])["no"] is None
    kinds = {"bool": pa.bool_(), "uint8": pa.uint8(), "float32": pa.float32(), "float64": pa.float64()}
    assert join_labels([split_of(*kinds.items())]) == {name: {"dtype": name} for name in kinds}
    assert join_labels([split_of(("when", pa.timestamp("s")))]) == {"when": None}


def test_splits_of_several_rates_are_not_resampled_to_one():
    def features(*splits: Split) -> Any:
        return yaml.safe_load(make_card(splits, root=".", licence="mit").split("---\n")[1])["dataset_info"]["features"]

    one, other = split_of(), split_of(name="valid", rate=16_000, codec="flac")
    assert features(one)[2:] == [{"name": "wav", "dtype": {"audio": {"sampling_rate": 8_000}}}]
    assert features(one, other)[2:] == [{"name": "flac", "dtype": "audio"}, {"name": "wav", "dtype": "audio"}]


def test_what_was_only_indexed_is_not_told(data: Path, tmp_path: Path):
    ours = fresh(data, tmp_path / "pack")
    (ours / "valid/index.parquet").unlink()
    index_shards([str(ours / "valid")], out=None, split=None)
    with_cards(ours)
    assert [split["name"] for split in head_of(ours / "README.md")["dataset_info"]["splits"]] == ["train", "test"]
    assert not (ours / "valid/README.md").exists()


def test_cards_are_written_to_a_bucket(store: str, data: Path, tmp_path: Path):
    bucket = store.replace("PATH", "cards")
    local = with_cards(fresh(data, tmp_path / "pack"))
    filesystem, path = pafs.FileSystem.from_uri(bucket)
    pafs.copy_files(str(fresh(data, tmp_path / "bare")), path, destination_filesystem=filesystem)
    write_cards(locate(bucket), license="cc-by-4.0")
    for card in ("README.md", "train/README.md"):
        assert (locate(bucket) / card).read_bytes() == (local / card).read_bytes()
