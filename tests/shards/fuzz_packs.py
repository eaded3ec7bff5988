"""fuzz_packs: a draw and a world -> one case of what reads packs: verify, repair, index, show, the store (see fuzz)."""

import shutil
from pathlib import Path

from shards.index import open_pack
from shards.indexing import index_shards
from shards.repair import repair
from shards.verify import verify_split
from tests.shards.fuzz import SPLIT, Rng, World, attempt, contents, describe_all, pick, read_rows, samples_of
from tests.shards.mutations import bend, bend_parquet, bend_tar


def damage(rng: Rng, world: World, folder: Path) -> bool:
    """Tars that differ in any byte are found by verify, never read as sound, and brought back by repair."""
    data, clean = folder / "data", contents(world.split)
    shutil.copytree(world.packed, data)
    for tar in [pick(rng, *sorted((data / SPLIT).glob("*.tar"))) for _ in range(rng.integers(1, 3))]:
        tar.unlink() if rng.integers(9) == 0 else tar.write_bytes(bend_tar(rng, tar.read_bytes()))
        if not tar.exists():
            break
    bent = contents(data / SPLIT)
    report = verify_split(data, split=SPLIT)
    assert all(str(one).isprintable() for one in report.findings)
    differ = tuple(sorted(name for name, whole in clean.items() if bent.get(name) != whole))
    assert (bool(report.findings), report.damaged) == (bool(differ), differ)
    true = dict(read_rows(open_pack(world.packed, split=SPLIT)))
    opened = attempt(lambda: open_pack(data, split=SPLIT), names=[data])
    rows = None if opened is None else attempt(lambda: dict(read_rows(opened)), names=[data])
    assert rows is None or rows == true
    src = world.notes
    if is_strange := rng.integers(3) == 0:
        src = folder / world.notes.name
        shutil.copytree(world.notes, src)
        note = pick(rng, *sorted((src / "audio").iterdir()))
        note.write_bytes(bend(rng, note.read_bytes()))
    done = attempt(lambda: repair(src, data, split=SPLIT), names=[src, *clean])
    after = contents(data / SPLIT)
    if done is None:
        assert is_strange
        assert all(after.get(name) in (clean.get(name), bent.get(name)) for name in {*after, *clean})
    else:
        assert (done, after) == (differ, clean)
    return done is not None


def index(rng: Rng, world: World, folder: Path) -> bool:
    """An index that was bent is refused; what it's still believed, every verb believes, and it is true."""
    data = folder / "data"
    shutil.copytree(world.packed, data)
    path = data / SPLIT / "index.parquet"
    path.write_bytes(bend_parquet(rng, path.read_bytes()))
    found = attempt(lambda: open_pack(data, split=SPLIT), names=[data])
    rows = None if found is None else attempt(lambda: read_rows(found), names=[path, data])
    told = None if found is None else attempt(lambda: (describe_all(found), 1), names=[path])
    report = attempt(lambda: verify_split(data, split=SPLIT), names=[path])
    true = open_pack(world.packed, split=SPLIT)
    if rows is not None:
        sounds = {sound for _, sound in read_rows(true)}
        assert all(data in sounds for _, data in rows)
    if report is not None and not report.findings:
        assert rows == read_rows(true)
        assert told is not None
        names = [name for name in true.schema.names if name != "sounding_length"]
        assert found.read(*names).to_pylist() == true.read(*names).to_pylist()
    assert all(str(one).isprintable() for one in (report.findings if report else ()))
    return report is not None and not report.findings


def tars(rng: Rng, world: World, folder: Path) -> bool:
    """Tars that `index` takes are whole to verify, and every row is read; in a folder of its own it touches none."""
    there, out = folder / "there", folder / "out"
    there.mkdir()
    for tar in sorted(world.split.glob("*.tar")):
        (there / tar.name).write_bytes(bend_tar(rng, tar.read_bytes()) if rng.integers(3) else tar.read_bytes())
    before = contents(there)
    found = attempt(lambda: index_shards([str(there)], out=out, split=SPLIT), names=[there])
    assert contents(there) == before
    if found is None:
        assert not out.exists()
        return False
    assert not verify_split(out, split=SPLIT).findings
    assert [len(samples_of(data)) for _, data in read_rows(found)] == found.read("length")["length"].to_pylist()
    describe_all(found)
    return True


CASES = (damage, index, tars)
