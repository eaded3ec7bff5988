"""What may be wrong with a shard, met by the loader: each bad row is named, and no other row changes.

Damage that `open_pack` sees, such as a shard of another size, is done after it has looked.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shards.errors import DataError
from shards.index import Pack, open_pack
from shards.pack import pack as pack_notes
from streaming.batch import Batch
from streaming.world import World
from tests.conftest import write_notes
from tests.streaming.sequences import BATCH, endless, make

STEPS = 6  # two epochs
SHARD, ROW = 2, 24  # the fifth row of ten in its shard


def place(pack: Pack, row: int = ROW) -> tuple[Path, int, int]:
    """Return a row's shard, and where its sound begins and how long it is."""
    number, part, at = pack.find(row)
    return (
        Path(str(pack.folder)) / pack.shards[number].name,
        int(part.places["offset"][at]),
        int(part.places["size"][at]),
    )


def flip(at: int) -> Callable[[Pack], None]:
    def damage(pack: Pack) -> None:
        path, offset, _ = place(pack)
        content = bytearray(path.read_bytes())
        content[offset + at] ^= 4
        path.write_bytes(content)

    return damage


def cut(at: int) -> Callable[[Pack], None]:
    def damage(pack: Pack) -> None:
        path, offset, size = place(pack)
        end = offset + -(-size // 512) * 512 if at is None else offset + at
        path.write_bytes(path.read_bytes()[:end])

    return damage


def swap(pack: Pack) -> None:
    one, other = (place(pack, row)[0] for row in (ROW, ROW + 20))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def make_stale(pack: Pack) -> None:
    """Pack other notes where the index's were: tars of the same names and sizes."""
    notes = Path(str(pack.folder)).parent / "other"
    write_notes(notes, split="train", count=61, length=1600)
    again = pack_notes(notes, notes / "pack", split="train", rows_per_shard=10, seed=9)
    for shard in again.shards:
        shutil.copy(Path(str(again.folder)) / shard.name, str(pack.folder))


def lose(pack: Pack) -> None:
    place(pack)[0].unlink()


CRC, SHORT = r"doesn't match its crc32", r"is cut short"
# damage, the rows that it is about, what is said of each that is bad
DAMAGES = {
    "a bit of a sound": (flip(500), [ROW], CRC),
    "a bit of a WAV header": (flip(24), [ROW], CRC),
    "a bit of a tar header": (flip(-500), [], ""),  # a seek by the index looks at none
    "cut where a member ends": (cut(None), range(ROW + 1, 30), SHORT),
    "cut inside a member": (cut(99), range(ROW, 30), SHORT),
    "two shards swapped": (swap, [*range(20, 30), *range(40, 50)], CRC),
    "a stale index": (make_stale, range(61), f"{CRC}|{SHORT}"),
    "a missing shard": (lose, range(20, 30), r"is gone"),
}  # fmt: skip


@pytest.fixture
def opened(tiny: tuple[Pack, ...], tmp_path: Path) -> Pack:
    shutil.copytree(str(tiny[0].folder), tmp_path / "train")
    return open_pack(tmp_path, split="train")


def sound(pack: Pack, row: int) -> bytes:
    """Return what lies where a row's sound should."""
    path, offset, size = place(pack, row)
    return path.read_bytes()[offset : offset + size] if path.exists() else b""


def damaged(pack: Pack, name: str) -> dict[str, tuple[Path, int, int]]:
    """Do a damage; return the keys and places of the rows that are bad: of equal notes one may stand for the other."""
    keys, _ = pack.take(range(pack.rows))
    before = [sound(pack, row) for row in range(pack.rows)]
    damage, rows, _ = DAMAGES[name]
    damage(pack)
    bad = [row for row in rows if sound(pack, row) != before[row]]
    assert len(bad) > 0.7 * len(rows) - 1
    return {keys[row]: place(pack, row) for row in bad}


def batches_of(pack: Pack, **options) -> list[Batch]:
    loader = make([pack], **options)
    found = [batch.clone() for batch, _ in zip(endless(loader), range(STEPS), strict=False)]
    loader._leave()
    return found


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_named_by_shard_key_and_offset(tiny, opened: Pack, name: str):
    places = damaged(opened, name)
    if not places:
        assert [batch.key for batch in batches_of(opened)] == [batch.key for batch in batches_of(tiny[0])]
        return
    with pytest.raises(DataError, match=DAMAGES[name][2]) as caught:
        batches_of(opened)
    told = str(caught.value)
    (key,) = (key for key in places if f", {key}, " in told)
    path, offset, _ = places[key]
    assert f"{path}, {key}, offset {offset} " in told
    assert "\n" not in told


@pytest.mark.slow
@pytest.mark.parametrize("readers", [0, 2])
@pytest.mark.parametrize("name", DAMAGES)
def test_masking_a_damage_changes_no_other_row(tiny, opened: Pack, pools, name: str, readers: int):
    places = damaged(opened, name)
    ranks = [
        batches_of(
            opened, on_bad_row="mask", bad_share=1.0, readers=pools(readers), world=World(rank=rank, world_size=5)
        )
        for rank in range(5)
    ]
    for step, whole in enumerate(batches_of(tiny[0])):
        share = [rank[step] for rank in ranks]
        assert sum((one.key for one in share), ()) == whole.key
        assert torch.cat([one.label for one in share]).tolist() == whole.label.tolist()
        weight, waveform = (torch.cat([getattr(one, name) for one in share]) for name in ("weight", "waveform"))
        bad = torch.tensor([key in places for key in whole.key])
        assert weight.tolist() == (~bad).float().tolist()
        assert not waveform[bad].any()
        assert torch.equal(waveform[~bad], whole.waveform[~bad])
        told = [one for batch in share for one in batch.masked]
        assert [one.key for one in told] == [key for key in whole.key if key in places]
        for one in told:
            path, offset, _ = places[one.key]
            assert (one.shard, one.offset) == (path.name, offset)
            assert re.search(DAMAGES[name][2], one.what)


@pytest.mark.parametrize("name", ["cut where a member ends", "cut inside a member", "a missing shard"])
def test_what_can_be_seen_when_a_pack_is_opened_is_told_then(opened: Pack, tmp_path: Path, name: str):
    DAMAGES[name][0](opened)
    with pytest.raises(DataError, match=r"train-000002\.tar"):
        open_pack(tmp_path, split="train")


def test_the_cursor_stays_before_a_batch_that_was_not_handed_out(opened: Pack):
    flip(500)(opened)
    loader = make([opened])
    with pytest.raises(DataError):
        for _ in endless(loader):
            pass
    reached = loader.cursor
    with pytest.raises(DataError):
        next(iter(loader))
    assert loader.cursor == reached
    flip(500)(opened)  # mended
    batch = next(iter(loader))
    assert (batch.cursor, loader.cursor) == (reached, reached + BATCH)
