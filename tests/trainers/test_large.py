"""What a rank holds of a training split that is read as it is: its size shows in shards, hardly in rows."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shards import index_writer
from shards.index_file import PLACE, Shard
from tests.trainers.runs import ROOT

EACH, FEW, MANY = 50_000, 1_000_000, 5_000_000  # of a shard: it is what is held at a time

CHILD = """
import json, sys
from pathlib import Path
from streaming import labels
from streaming.world import World
from trainers.config import TrainConfig
from trainers.data import open_data
from trainers.task import make_task
from trainers.training import make_loader

few, many, label, most = sys.argv[1:]
labels.MOST_ROWS = int(most)

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

def begin(folder):
    config = TrainConfig(data=folder, label=label, class_weights=0.5, batch_size=64)
    data = open_data(config)
    task = make_task(config, data.train.packs, classes=data.classes, order=data.order, device="cpu")
    loader = make_loader(config, data, world=World(), readers=0, device="cpu")
    counts = data.train.count(label, data.classes)
    some = data.train.targets(label, data.classes, rows=[3, len(data.train) - 1])
    return data, task, loader, counts.tolist(), some.tolist()

held = [begin(few)]
before = peak()
held += [begin(many)]
print(json.dumps({"grown": peak() - before, "counts": held[1][3], "some": held[1][4], "rows": len(held[1][0].train)}))
"""


def make_index(folder: Path, *, rows: int) -> Path:
    """Write an index of `rows` rows over tars that are all hole; of every four rows three are the first class's."""
    (folder / "train").mkdir(parents=True)
    each, size = EACH, 2048
    number = np.arange(each)
    names = pa.array(["bass", "organ"]).take(pa.array((number % 4 == 3).astype(np.int64)))
    flags = pa.ListArray.from_arrays(pa.array(np.arange(each + 1) * 2, pa.int32()), pa.array(np.tile([1, 0], each)))
    pitches = pa.array(40 + number % 4)
    tables, shards = [], []
    for shard in range(rows // each):
        name = f"train-{shard:06d}.tar"
        with (folder / "train" / name).open("wb") as tar:
            tar.truncate(each * size)
        places = {
            "shard": pa.DictionaryArray.from_arrays(pa.array(np.zeros(each, np.int32)), pa.array([name])),
            "key": pa.array(["note"] * each), "offset": pa.array(number * size + 1024),
            "size": pa.array(np.full(each, 844, np.int32)), "crc32": pa.array(np.zeros(each, np.uint32)),
            "length": pa.array(np.full(each, 400, np.int32)), "sounding_length": pa.array(np.full(each, 400, np.int32)),
        }  # fmt: skip
        columns = [*(places[field.name].cast(field.type) for field in PLACE), names, pitches, flags]
        tables.append(pa.Table.from_arrays(columns, names=[*PLACE.names, "family", "pitch", "flags"]))
        shards.append(Shard(name=name, rows=each, bytes=each * size, hash=f"{shard:032x}"))
    index_writer.write_index(
        folder / "train", split="train", sample_rate=16_000, codec="wav", shards=shards, tables=tables, options={}
    )
    return folder


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("large")
    return make_index(folder / "few", rows=FEW), make_index(folder / "many", rows=MANY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "most", "bytes_each"), [("pitch", 50_000_000, 2), ("family", 1000, 1), ("flags", 1000, 1)]
)
def test_a_rank_holds_little_of_a_row(packs: tuple[Path, Path], label: str, most: int, bytes_each: int):
    """Of a row up to MOST_ROWS its id, in one byte; past that nothing. Numbers and ids of 8 bytes took 19."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, packs), label, str(most)], cwd=ROOT, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    quarter = MANY // 4
    assert told["rows"] == MANY
    assert told["grown"] < bytes_each * (MANY - FEW), f"{told['grown'] / MANY:.2f} bytes a row"
    if label == "family":
        assert told["counts"] == [3 * quarter, quarter]
        assert told["some"] == [1, 1]
    elif label == "flags":
        assert told["counts"] == [MANY, 0]
        assert told["some"] == [[1, 0]] * 2
    else:
        assert told["counts"][40:44] == [quarter] * 4
        assert told["some"] == [43, 43]
