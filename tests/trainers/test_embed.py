"""Embedding: what the network makes of a note before its head, a row each, whatever it shares a batch with."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from shards import audio
from shards.index import open_pack
from trainers import checkpoint, embed, trained
from trainers.__main__ import main as door
from trainers.run import Run
from trainers.trained import open_trained


def features(path: Path) -> tuple[list[str], np.ndarray]:
    table = pq.read_table(path)
    assert table.schema.field("key").type == pa.string()
    kind = table.schema.field("features").type
    assert kind == pa.list_(pa.float32(), kind.list_size)
    return table["key"].to_pylist(), np.array(table["features"].to_pylist(), np.float32)


@torch.no_grad()
def alone(run: Run, path: Path) -> np.ndarray:
    """What the network makes of one file, by hand."""
    one, data = open_trained(str(run.folder), device="cpu"), path.read_bytes()
    waveform = torch.from_numpy(audio.decode(data, header=audio.read_header(data, name="x")))[None]
    return one.model.forward_head(one.model.forward_features(one.mel(waveform)), pre_logits=True)[0].numpy()


def test_every_row_has_its_features_as_if_it_were_alone(whole: Run, data: Path, notes: Path, tmp_path: Path, capsys):
    out = tmp_path / "new" / "features.parquet"
    assert door(["embed", str(whole.folder), "--split", "test", "--out", str(out), "--device", "cpu"]) == 0
    assert capsys.readouterr().err == f"written: {out}, 11 rows\n"
    keys, found = features(out)
    assert keys == open_pack(data, split="test").read("key")["key"].to_pylist()
    for key, vector in zip(keys, found, strict=True):
        np.testing.assert_allclose(vector, alone(whole, notes / "nsynth-test" / "audio" / f"{key}.wav"), atol=1e-5)
    about = json.loads(pq.read_schema(out).metadata[b"notestream"])
    state = checkpoint.read_state(whole.best)
    assert about == {
        "run": str(whole.folder), "cursor": state["cursor"], "model": "test_resnet", "sample_rate": 16_000,
        "data": str(data), "split": "test",
    }  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_files_have_the_features_of_their_rows(whole: Run, notes: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(trained, "ROWS", 3)
    monkeypatch.setattr(embed, "ROWS_A_GROUP", 4)
    folder, out = notes / "nsynth-test" / "audio", tmp_path / "files.parquet"
    assert door(["embed", str(whole.folder), str(folder), "--out", str(out), "--device", "cpu"]) == 0
    keys, found = features(out)
    assert keys == sorted(str(path) for path in folder.iterdir())
    np.testing.assert_allclose(found[5], alone(whole, Path(keys[5])), atol=1e-5)
    (tmp_path / "bad.wav").write_bytes(b"no")
    args = ["embed", str(whole.folder), str(tmp_path / "bad.wav"), keys[0], "--out", str(out), "--device", "cpu"]
    capsys.readouterr()
    assert door(args) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"notestream: {tmp_path / 'bad.wav'} can't be decoded")
    assert said[1] == f"notestream: 1 of 2 files can't be read: they are left out of {out}"
    assert features(out)[0] == keys[:1]


def test_wrong_use_of_embed_is_told(whole: Run, data: Path, tmp_path: Path, monkeypatch, capsys):
    common = ["--out", str(tmp_path / "x.parquet"), "--device", "cpu"]
    assert door(["embed", str(whole.folder), "x.wav", "--data", "d", *common]) == 2
    assert "take files or --data d, not both" in capsys.readouterr().err
    assert door(["embed", str(whole.folder), "--split", "other", *common]) == 2
    assert "other" in capsys.readouterr().err
    opened = open_trained(str(whole.folder), device="cpu")
    plain = trained.Trained(**{**vars(opened), "model": torch.nn.Linear(1, 1)})
    monkeypatch.setattr(embed, "open_trained", lambda place, device: plain)
    assert door(["embed", str(whole.folder), *common]) == 2
    assert capsys.readouterr().err == (
        "notestream: model 'test_resnet' has no features apart from its head: give it timm's forward_features(x) and "
        "forward_head(x, pre_logits)\n"
    )
    assert not (tmp_path / "x.parquet").exists()


def test_a_row_that_can_not_be_read_leaves_the_old_file(whole: Run, data: Path, tmp_path: Path, capsys):
    import shutil

    shutil.copytree(data, tmp_path / "pack")
    shard = next((tmp_path / "pack" / "test").glob("*.tar"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    out = tmp_path / "x.parquet"
    out.write_bytes(b"as before")
    args = ["embed", str(whole.folder), "--data", str(tmp_path / "pack"), "--out", str(out), "--device", "cpu"]
    assert door(args) == 1
    assert "crc32" in capsys.readouterr().err
    assert out.read_bytes() == b"as before"
    assert {path.name for path in tmp_path.iterdir()} == {"pack", "x.parquet"}


@pytest.mark.parametrize("rows", [1, 1000])
def test_features_do_not_depend_on_what_goes_through_together(whole: Run, tmp_path, monkeypatch, rows: int):
    monkeypatch.setattr(trained, "ROWS", rows)
    monkeypatch.setattr(trained, "LONGEST_SECONDS", 0.3)
    out = tmp_path / "x.parquet"
    embed.embed_split(str(whole.folder), data=None, split="test", out=out, device="cpu")
    opened = open_trained(str(whole.folder), device="cpu")
    parts = [0.3, 0.3, 0.3, 0.1]
    pack = open_pack(opened.config.data or "", split="test")
    from streaming.clips import read_note
    from streaming.store import Store

    wave = torch.from_numpy(read_note(Store(pack), 2))
    with torch.no_grad():
        pieces = wave.split([round(16_000 * part) for part in parts])
        each = [
            embed.Features(opened)(piece[None])[0].numpy() * part for piece, part in zip(pieces, parts, strict=True)
        ]
    np.testing.assert_allclose(features(out)[1][2], sum(each), atol=1e-5)
