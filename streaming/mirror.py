"""mirror: a remote pack -> its shards as whole files on this node's disk, shared by all ranks and readers of the node.

    expect(shards in order of need) ──> a thread fetches the next ones ──┐
    read(shard, offset, size) ──> one pread ── not there: fetched now ───┴─> claim ─> room ─> fetch ─> rename

A shard is fetched by one process of a node: who wants it too waits for its lock and finds it there. Files are named by
their hash, so restarts, other runs and other packs with the same shards find them. Nothing outlives its process but
whole shards (streaming.room).
"""

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shards.body import PAUSES_SECONDS
from shards.errors import NotestreamError, UsageError
from shards.index import Pack
from streaming import room
from streaming.fetch import fetch_shard

MAX_OPEN = 64
TOUCH_SECONDS = 1.0  # at most so often a shard's file is told that it is used
FREE_SHARE = 0.5  # of what the disk has for the mirror where no budget is given: checkpoints and others need some too
STOP_SECONDS = 5.0  # that closing waits for the thread; in a pause it ends by itself later
SCALE = 1 << 20  # of the places in an order


class Mirror:
    """Reads a remote pack's shards through copies on this node. Pickles without its descriptors and its thread.

    Args:
        pack: the remote pack.
        folder: where the node's mirror lies, for all packs.
        budget_bytes: what all files in it may take, whoever fetched them.
        pauses: seconds between attempts to reach the shards.
    """

    def __init__(self, pack: Pack, *, folder: Path, budget_bytes: int, pauses: Sequence[float]) -> None:
        self.pack, self.folder, self.budget_bytes, self.pauses = pack, folder, budget_bytes, tuple(pauses)
        self._begin()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._begin()

    def _begin(self) -> None:
        self._open: OrderedDict[int, tuple[int, float]] = OrderedDict()  # descriptor, last touch; longest unused first
        self._expected: tuple[tuple[int, ...], Mapping[str, int]] = (), {}  # shards in order, how soon files are needed
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def read(self, number: int, *, offset: int, size: int) -> bytes:
        """Read a part of shard `number`, fetching the shard if it isn't here.

        Raises:
            DataError: it can't be fetched, or isn't what the index says.
            OSError: the mirror's disk fails or is full.
        """
        while True:
            data = os.pread(self._descriptor(number), size, offset)
            if len(data) == size:
                return data
            self.mend(number)  # deleted while it was open here, or a power cut took its end

    def mend(self, number: int) -> None:
        """Let go of a shard that gave wrong bytes; where it still has its name, delete it. It is fetched anew."""
        found, path = self._open.pop(number, None), self._path(number)
        if found:
            if room.lies_at(found[0], path):
                room.delete(path)
            os.close(found[0])

    def places(self, shards: Sequence[int]) -> dict[str, int]:
        """Say how soon files are needed, 0 to SCALE, for shards in order of need; comparable from pack to pack."""
        return {self._path(shard).name: at * SCALE // len(shards) for at, shard in reversed(list(enumerate(shards)))}

    def expect(self, shards: Sequence[int], *, needed: Mapping[str, int] | None = None) -> None:
        """Tell which shards are needed from now on, in order, those in use first: fetched ahead, deleted last.

        `needed` is what all packs need that are read together (see places); this pack's alone unless given. Files not
        in it aren't needed, and go first. All who share a mirror should tell of about the same place in the order: of
        the batches handed out rather than of those read ahead. Where nobody tells anything, the shards used last stay.
        """
        expected = tuple(shards), self.places(shards) if needed is None else dict(needed)
        if expected == self._expected:
            return
        self._expected = expected
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._fetch_ahead, args=(self._closed,), daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Close all descriptors and stop fetching ahead; reading and expecting begin anew."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        while self._open:
            os.close(self._open.popitem()[1][0])
        self._begin()

    def _descriptor(self, number: int) -> int:
        file, touched = self._open.pop(number, (None, 0.0))
        if file is None:
            file = self._fetch(number)
            if len(self._open) >= MAX_OPEN:
                os.close(self._open.popitem(last=False)[1][0])
        if (now := time.monotonic()) - touched > TOUCH_SECONDS:
            os.utime(file)
            touched = now
        self._open[number] = file, touched
        return file

    def _fetch(self, number: int) -> int:
        """Open a shard, fetched if need be; however often others delete it meanwhile, a descriptor comes of it."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                return os.open(self._path(number), os.O_RDWR | room.NO_LINK)
            if (file := self._make_whole(number)) is not None:
                return file

    def _make_whole(
        self, number: int, *, later: int | None = None, stopped: Callable[[], bool] = lambda: False
    ) -> int | None:
        """Fetch a shard unless another does, or has; return a descriptor of it. `later`: see room.make_room."""
        shard, whole = self.pack.shards[number], self._path(number)
        under_way = whole.with_suffix(room.UNDER_WAY)
        with room.claim(under_way, wait=later is None) as part:
            if part is None or whole.exists():
                return None
            budget, needed = self.budget_bytes, self._expected[1]
            room.make_room(part, folder=self.folder, size=shard.bytes, budget=budget, needed=needed, later=later)
            fetch_shard(self.pack.folder / shard.name, shard=shard, out=part, pauses=self.pauses, stopped=stopped)
            room.publish(under_way, whole)
            return os.dup(part)

    def _fetch_ahead(self, closed: threading.Event) -> None:
        """Fetch what is expected and isn't here, as long as there is room; then wait for another order."""
        wake = self._wake
        while not closed.is_set():
            wake.wait()
            wake.clear()
            expected = self._expected
            for number in expected[0]:
                path = self._path(number)
                if closed.is_set() or expected is not self._expected:
                    break
                if path.exists():
                    continue
                try:
                    file = self._make_whole(number, later=expected[1].get(path.name, 0), stopped=closed.is_set)
                except (room.NoRoomError, OSError):
                    break
                except NotestreamError:  # told to who needs the shard, if anyone
                    continue
                if file is not None:
                    os.close(file)

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.pack.shards[number].hash}{room.WHOLE}"


def open_mirror(
    pack: Pack,
    *,
    budget_bytes: int | None = None,
    working_bytes: int | None = None,
    pauses: Sequence[float] = PAUSES_SECONDS,
) -> Mirror:
    """Open this node's mirror for a remote pack. Unless given, the budget is half of what the disk has for it.

    `working_bytes` is what the order needs at a time, all shards unless given: with less, each row would fetch a shard.

    Raises:
        UsageError: it can't be made, or has room for less than `working_bytes`.
    """
    folder = room.mirror_folder()
    try:
        there = room.prepare_folder(folder)
    except OSError as error:
        way = "set NOTESTREAM_MIRROR to a folder of yours"
        raise UsageError(f"mirror {folder} can't be used ({error.strerror}): {way}") from error
    budget = int(there * FREE_SHARE) if budget_bytes is None else budget_bytes
    sizes = pack.shards.bytes
    need = int(sizes.sum() if working_bytes is None else max(working_bytes, sizes.max()))
    if min(budget, there) < need:
        has = f"may take {budget / 1e9:.3g} GB of the {there / 1e9:.3g} that its disk has for it"
        way = "raise --mirror-gb, set NOTESTREAM_MIRROR to a larger disk, or take --remote ranged"
        raise UsageError(f"mirror {folder} {has}, and {pack.folder} needs {need / 1e9:.3g} at a time: {way}")
    return Mirror(pack, folder=folder, budget_bytes=budget, pauses=pauses)
