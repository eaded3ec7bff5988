"""attacked: packs -> what every way of reading gives, under an audit hook and a limit of memory, as JSON lines.

    python -m tests.streaming.attacked SITE WHOLE PACK...

The packs are folders side by side, which SITE serves by their names. WHOLE is read first, unwatched, so that what is
imported late is there.
"""

import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shards.errors import NotestreamError
from shards.index import Pack, open_pack
from streaming.augment import Augment
from streaming.clips import read_note
from streaming.evaluation import whole_notes
from streaming.loader import Loader
from streaming.mix import make_order
from streaming.stages import Source, collate, draw_views, plan_rows, render_rows
from streaming.store import Remote, Store
from streaming.world import World

SPLIT, FAMILY = "valid", "instrument_family_str"
ROOM = 1 << 30  # bytes beyond what a whole pack takes
MOST_PARTS = 20  # of what a pack gives: a whole one's rows and a few more
IN_OPEN = 0x20  # inotify's
MOVED = Augment(pitch_semitones=3, speed=1.2, random_start=True)
BOTH = Augment(pitch_semitones=3, speed=1.2, random_start=True, pitch_probability=0.5, speed_probability=0.5)
NOTED = ("ctypes.dlopen", "marshal.loads", "os.", "pickle.", "shutil.", "socket.connect", "subprocess.", "urllib.")
HARMLESS = ("os.fwalk", "os.listdir", "os.scandir", "os.walk", "os.putenv", "os.unsetenv")


def from_store(pack: Pack) -> Iterator[bytes]:
    store = Store(pack)
    yield from (store.read(row) for row in range(pack.rows))
    store.close()


def from_loader(pack: Pack) -> Iterator[bytes]:
    loader = Loader(pack, batch_size=17, seed=0, label=FAMILY, crop_seconds=0.5)
    yield next(iter(loader)).waveform.numpy().tobytes()
    loader.close()


def from_stages(pack: Pack, **options: Any) -> Iterator[bytes]:
    """What a loader's readers run, without what it takes to start one."""
    store, labels = Store(pack), pack.label_ids(FAMILY, pack.classes.get(FAMILY, ()))
    source = Source(stores=(store,), labels=(labels,), length=8000, seed=0, **options)
    rows = plan_rows(make_order([pack], seed=0), cursor=0, batch_size=17, slots=range(17))
    draw_views(source, rows)
    render_rows(source, rows)
    yield collate(source, rows).waveform.tobytes()
    store.close()


def from_notes(pack: Pack) -> Iterator[bytes]:
    options = {"label": FAMILY, "classes": pack.classes.get(FAMILY, ()), "batch_size": 4, "world": World()}
    yield from (batch.waveform.numpy().tobytes() for batch in whole_notes(pack, **options))


def from_afar(pack: Pack, *, remote: Remote) -> Iterator[bytes]:
    store = Store(pack, remote=remote, pauses=())
    yield from (read_note(store, row).tobytes() for row in range(pack.rows))
    store.close()


WAYS: dict[str, Callable[[Pack], Iterator[bytes]]] = {
    "store": from_store,
    "plain": from_loader,
    "moved": lambda pack: from_stages(pack, augment=MOVED),
    "crops": lambda pack: from_stages(pack, augment=BOTH, verify_reads=False),
    "notes": from_notes,
    "mirror": lambda pack: from_afar(pack, remote="mirror"),
    "ranged": lambda pack: from_afar(pack, remote="ranged"),
}
AFAR = ("mirror", "ranged")


class Watch:
    """Notes what this process opens and runs, while it is on."""

    def __init__(self) -> None:
        self.on, self.noted = False, []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and (event == "open" or (event.startswith(NOTED) and event not in HARMLESS)):
            told = args[1] if event == "socket.connect" else args[0] if args else ""
            self.noted.append([event, str(told)[:300]])


@contextlib.contextmanager
def unopened(folder: Path) -> Iterator[None]:
    """See to it that nothing in a folder is opened, by the kernel's word: an audit hook doesn't see what C++ opens."""
    libc = ctypes.CDLL(None)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(descriptor, os.fsencode(folder), IN_OPEN) >= 0
    try:
        yield
        with contextlib.suppress(BlockingIOError):
            raise AssertionError(f"opened in {folder}: {os.read(descriptor, 4096)}")
    finally:
        os.close(descriptor)


def attempt(data: str, way: Callable[[Pack], Iterator[bytes]]) -> dict[str, str]:
    """Read a pack: a hash of all that it gave, or its error."""
    found = hashlib.sha256()
    try:
        for part in itertools.islice(way(open_pack(data, split=SPLIT)), MOST_PARTS):
            found.update(part)
    except NotestreamError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"crash": f"{type(error).__name__}: {error}"[:300]}
    return {"rows": found.hexdigest()}


def status(name: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def main(site: str, whole: str, *packs: str) -> None:
    for name, way in WAYS.items():
        attempt(_place(whole, name, site=site), way)
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + ROOM, resource.RLIM_INFINITY))
    watch = Watch()
    sys.addaudithook(watch)
    for pack in packs:
        for name, way in WAYS.items():
            place = _place(pack, name, site=site)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before, watch.noted, watch.on = status("VmRSS"), [], True
            found = attempt(place, way)
            watch.on = False
            taken = status("VmHWM") - before
            print(json.dumps({"pack": pack, "way": name, "noted": watch.noted, "taken": taken, **found}))


def _place(pack: str, way: str, *, site: str) -> str:
    return f"{site}/{Path(pack).name}" if way in AFAR else pack


if __name__ == "__main__":
    main(*sys.argv[1:])
