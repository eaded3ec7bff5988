"""Packs of tiny notes, reader processes that tests share, and one thread for torch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from shards.index import Pack, open_pack
from shards.pack import pack
from streaming.readers import Readers
from tests.conftest import write_notes


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a reader: threads that wait for each other make a vocoder's frame 40 times as long on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pack, ...]:
    """Two packs of notes of 0.1 s: 61 in shards of ten, 17 in shards of four."""
    found = []
    for name, count, rows in (("a", 61, 10), ("b", 17, 4)):
        folder = tmp_path_factory.mktemp(name)
        write_notes(folder / "notes", split="train", count=count, length=1600)
        pack(folder / "notes", folder / "pack", split="train", rows_per_shard=rows)
        found.append(open_pack(folder / "pack", split="train"))
    return tuple(found)


@pytest.fixture(scope="session")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """A pack of one note."""
    folder: Path = tmp_path_factory.mktemp("lone")
    write_notes(folder / "notes", split="train", count=1, length=1600)
    pack(folder / "notes", folder / "pack", split="train")
    return open_pack(folder / "pack", split="train")


@pytest.fixture(scope="session")
def pools() -> Iterator[Callable[[int], Readers | None]]:
    """Reader processes by their number, started when they are first asked for; None is for this process."""
    started: dict[int, Readers] = {}

    def pool(count: int) -> Readers | None:
        if count and count not in started:
            started[count] = Readers(count)
        return started.get(count)

    yield pool
    for readers in started.values():
        readers.close()
