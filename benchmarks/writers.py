"""The other libraries' side of benchmarks.pack, run by the python of .venv-peers: one of them owns our import names.

writers.py NOTES OUT     NOTES is an NSynth split's folder. Says {"versions": {...}}, then answers each line of stdin,
a method's name, by one line of stdout: {"seconds": s}. What it wrote is removed outside the clock.
"""

import importlib.metadata
import json
import os
import shutil
import sys
import time

import litdata

from streaming import MDSWriter

SHARD_BYTES = 133_000_000


def mds(folder: str, out: str, examples: dict) -> None:
    """Write mosaicml's shards."""
    columns = {"key": "str", "json": "bytes", "wav": "bytes"}
    with MDSWriter(out=out, columns=columns, size_limit=SHARD_BYTES) as writer:
        for key in examples:
            writer.write(sample(folder, key, examples[key]))


def lit(folder: str, out: str, examples: dict) -> None:
    """Write litdata's chunks, by one worker."""
    work = [(folder, key, examples[key]) for key in examples]
    litdata.optimize(lit_sample, work, out, chunk_bytes=SHARD_BYTES, num_workers=1, verbose=False)


def lit_sample(work: tuple) -> dict:
    """Make one sample of litdata's."""
    return sample(*work)


def sample(folder: str, key: str, labels: dict) -> dict:
    """Read one note: the members that we write."""
    with open(f"{folder}/audio/{key}.wav", "rb") as file:  # noqa: PTH123
        return {"key": key, "json": json.dumps(labels, separators=(",", ":")).encode(), "wav": file.read()}


METHODS = {"mosaicml MDSWriter": mds, "litdata optimize": lit}
PACKAGES = ("mosaicml-streaming", "litdata")


def main() -> None:
    """Answer until stdin ends."""
    folder, out = sys.argv[1:]
    answer = os.fdopen(os.dup(1), "w")  # what a library prints isn't an answer
    os.dup2(2, 1)
    print(json.dumps({"versions": {n: importlib.metadata.version(n) for n in PACKAGES}}), file=answer, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        with open(f"{folder}/examples.json", "rb") as file:  # noqa: PTH123
            examples = json.load(file)
        METHODS[line.strip()](folder, out, examples)
        seconds = time.perf_counter() - started
        shutil.rmtree(out)
        print(json.dumps({"seconds": seconds}), file=answer, flush=True)


if __name__ == "__main__":
    main()
