"""Small true-shaped inputs: an NSynth folder of tones, and the pack made of it, once a session."""

import asyncio
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
from aiohttp import web

from shards import audio
from shards.fields import FAMILIES, QUALITIES, SAMPLE_RATE, SOURCES
from shards.pack import pack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: quick files then fill the gap between two workers at the end."""
    items.sort(key=lambda item: "trainers" not in item.path.parts)


def tone(pitch: int, *, length: int, sounding: int) -> np.ndarray:
    """A decaying tone of int16 that falls into exact digital silence at `sounding`."""
    time = np.arange(length) / SAMPLE_RATE
    wave = np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time) * np.exp(-time) * 20_000
    wave[sounding:] = 0
    return wave.astype(np.int16)


def write_notes(folder: Path, *, split: str, count: int, length: int = 16_000, families: int = 3) -> Path:
    """Write nsynth-SPLIT with `count` notes: key i is of family i % families; every fourth dies halfway."""
    root = folder / f"nsynth-{split}"
    (root / "audio").mkdir(parents=True)
    examples = {}
    for i in range(count):
        family, source, pitch = i % families, i % 3, 40 + i % 40
        instrument = f"{FAMILIES[family]}_{SOURCES[source]}_{i % 7:03d}"
        key = f"{instrument}-{pitch:03d}-{i:03d}"
        sounding = length // 2 if i % 4 == 3 else length
        (root / "audio" / f"{key}.wav").write_bytes(
            audio.encode(tone(pitch, length=length, sounding=sounding), sample_rate=SAMPLE_RATE, codec="wav")
        )
        examples[key] = {
            "note": i,
            "note_str": key,
            "instrument": i % 7,
            "instrument_str": instrument,
            "pitch": pitch,
            "velocity": 100,
            "sample_rate": SAMPLE_RATE,
            "qualities": [int(j == i % 11) for j in range(10)],
            "qualities_str": [q for j, q in enumerate(QUALITIES) if j == i % 11],
            "instrument_family": family,
            "instrument_family_str": FAMILIES[family],
            "instrument_source": source,
            "instrument_source_str": SOURCES[source],
        }
    (root / "examples.json").write_text(json.dumps(examples, indent=4))
    return root


@pytest.fixture(scope="session")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nsynth-train (61 notes of 1 s), nsynth-valid (17) and nsynth-test (11)."""
    folder = tmp_path_factory.mktemp("notes")
    for split, count in (("train", 61), ("valid", 17), ("test", 11)):
        write_notes(folder, split=split, count=count)
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The mirror of these tests, and of what they start, lies apart from the machine's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTESTREAM_MIRROR", str(tmp_path_factory.mktemp("mirror")))
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, where the machine lets us mount one."""
    yield from _disk(tmp_path / "disk", megabytes=1)


@pytest.fixture
def large_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of forty, where a run of a small network finds room until something else takes it."""
    yield from _disk(tmp_path / "disk", megabytes=40)


def _disk(folder: Path, *, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs root and a mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """A real S3 server (moto's) with an empty bucket; PATH in its URL is where a path goes, before the query."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as env:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            env.setenv(name, "test")
        url = f"s3://bucket/PATH?endpoint_override=http://{host}:{port}&region=us-east-1&allow_bucket_creation=true"
        filesystem, _ = pafs.FileSystem.from_uri(url.replace("/PATH", ""))
        filesystem.create_dir("bucket")
        yield url
    server.stop()


@contextlib.contextmanager
def serve(folder: Path, *, middlewares: Sequence[Any] = ()) -> Iterator[str]:
    """Serve a folder by a real web server that answers ranges; gives its address."""
    loop, app = asyncio.new_event_loop(), web.Application(middlewares=middlewares)
    app.router.add_static("/", folder)
    runner = web.AppRunner(app)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def data(notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of `notes`: shards of ten notes."""
    folder = tmp_path_factory.mktemp("pack")
    for split in ("train", "valid", "test"):
        pack(notes, folder, split=split, rows_per_shard=10)
    return folder
