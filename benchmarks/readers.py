"""The other libraries' side of benchmarks.ingest, run by the python of .venv-peers: one of them owns our import names.

readers.py NOTES SHARDS WORK     NOTES is an NSynth split's folder, SHARDS the folder of its tars; WORK is where each
library's own format is made, once. Says {"versions": {...}}, then answers each line of stdin, a method and its number
of workers, by one line of stdout: {"seconds": s}; the processor's seconds without workers, else the wall's.
"""

import importlib.metadata
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset
import writers

BATCH, BUFFER = 64, 256
WAV_HEADER = 44
PACKAGES = ("litdata", "mosaicml-streaming", "webdataset", "nvidia-dali-cuda120")


def decode(wav: bytes) -> np.ndarray:
    """Turn a file into float32 as anybody would."""
    return np.frombuffer(wav, "<i2", offset=WAV_HEADER).astype(np.float32) / 32768


def collate(samples: list[dict]) -> torch.Tensor:
    """Stack notes, (BATCH, time)."""
    return torch.from_numpy(np.stack([decode(sample["wav"]) for sample in samples]))


def lit(work: Path, workers: int) -> Iterable[torch.Tensor]:
    """Stream litdata's chunks."""
    import litdata

    data = litdata.StreamingDataset(str(work / "lit"), shuffle=True)
    return litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=collate)


def mds(work: Path, workers: int) -> Iterable[torch.Tensor]:
    """Stream mosaicml's shards."""
    from streaming import StreamingDataset

    data = StreamingDataset(local=str(work / "mds"), shuffle=True, batch_size=BATCH)
    return torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=collate)


def wds(shards: Path, workers: int) -> Iterable[torch.Tensor]:
    """Stream the tars with webdataset, shuffled through a buffer."""
    data = webdataset.WebDataset(tars(shards), shardshuffle=False).shuffle(BUFFER)
    batches = data.batched(BATCH, collation_fn=collate)
    return webdataset.WebLoader(batches, batch_size=None, num_workers=workers)


def dali(shards: Path, work: Path, workers: int) -> Iterator[torch.Tensor]:
    """Stream the tars with DALI, by `workers` threads or one, shuffled through a buffer."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=max(workers, 1), device_id=None)
    def notes():
        wav = fn.readers.webdataset(
            paths=tars(shards),
            index_paths=indexes(shards, work),
            ext=["wav"],
            random_shuffle=True,
            initial_fill=BUFFER,
            name="tars",
            pad_last_batch=True,
        )
        return fn.decoders.audio(wav, dtype=types.FLOAT, downmix=True)[0]

    pipe = notes()
    pipe.build()
    for _ in range(-(-pipe.epoch_size("tars") // BATCH)):
        yield torch.from_numpy(np.array(pipe.run()[0].as_array()))


def tars(shards: Path) -> list[str]:
    """List the tars."""
    return sorted(map(str, shards.glob("*.tar")))


def indexes(shards: Path, work: Path) -> list[str]:
    """Write DALI's index of each tar, once: it would walk the tars at every start."""
    found = []
    for path in map(Path, tars(shards)):
        found.append(str(work / f"{path.stem}.idx"))
        if Path(found[-1]).exists():
            continue
        with tarfile.open(path) as tar:
            members = [(m.name.rpartition(".")[2], m.offset_data, m.size, m.name) for m in tar]
        lines = [
            " ".join(f"{e} {at} {size} {name}" for e, at, size, name in pair)
            for pair in zip(*[iter(members)] * 2, strict=True)
        ]
        Path(found[-1]).write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]))
    return found


def prepare(notes: Path, work: Path) -> None:
    """Make the formats of their own, once."""
    examples = json.loads((notes / "examples.json").read_bytes())
    for name, write in (("lit", writers.lit), ("mds", writers.mds)):
        if not (work / f"{name}.whole").exists():
            write(str(notes), str(work / name), examples)
            (work / f"{name}.whole").touch()


def main() -> None:
    """Answer until stdin ends."""
    notes, shards, work = (Path(place) for place in sys.argv[1:])
    answer = os.fdopen(os.dup(1), "w")  # what a library prints isn't an answer
    os.dup2(2, 1)
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    prepare(notes, work)
    methods = {
        "litdata": lambda n: lit(work, n), "mosaicml": lambda n: mds(work, n), "webdataset": lambda n: wds(shards, n),
        "DALI": lambda n: dali(shards, work, n),
    }  # fmt: skip
    print(json.dumps({"versions": {n: importlib.metadata.version(n) for n in PACKAGES}}), file=answer, flush=True)
    for line in sys.stdin:
        name, workers = line.rsplit(maxsplit=1)
        clock = time.perf_counter if int(workers) else time.process_time
        started = clock()
        rows = sum(len(batch) for batch in methods[name](int(workers)))
        seconds = clock() - started
        assert rows >= len(list((notes / "audio").iterdir())), f"{name} gave {rows} rows"
        print(json.dumps({"seconds": seconds}), file=answer, flush=True)


if __name__ == "__main__":
    main()
