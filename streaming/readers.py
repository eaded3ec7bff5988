"""readers: jobs, numbers -> batches in order, made by processes. Reader k of n makes batches k, k + n, ...

    rank    Make(job, number, slot) ──socket──> reader: waveforms written into the slot, in shared memory
            batch <── Made(the rest) <──socket──┘

The rank keeps all state: what was asked of a reader and not yet answered. So a reader that was killed is started anew
and asked again, and nobody notices but stderr. Readers live as long as the run, and any number of jobs share them.
"""

import multiprocessing
import os
import pickle
import select
import signal
import sys
import weakref
from collections import deque
from collections.abc import Generator, Iterable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.reduction import send_handle

from shards import linux
from shards.errors import NotestreamError
from streaming.batch import Batch
from streaming.buffers import Slots
from streaming.pipeline import Job
from streaming.reader import Close, Made, Make, Open, run_reader
from streaming.tensors import as_tensors, from_bytes

LEAST_SLOTS, MOST_SLOTS = 3, 16  # a reader and job: one in the user's hands, the others ahead
SLOT_BYTES = 64 << 20  # for a reader's slots where batches are small: time to be late in, when others take the core
QUIET_SECONDS = 0.5  # after which a reader has told all that it can
MOST_DEATHS = 5  # of a reader in a row, without a batch in between


class _Reading:
    """A job as the rank sees it: its memory, and what readers have answered, (readers,) queues."""

    def __init__(self, job: Job, *, readers: int, size: int) -> None:
        self.pickled, self.size = pickle.dumps(job), size
        self.each = min(MOST_SLOTS, max(LEAST_SLOTS, SLOT_BYTES // max(size, 1)))
        self.slots = Slots(count=self.each * readers, size=size)
        self.made: list[deque[tuple[Make, Made | BaseException]]] = [deque() for _ in range(readers)]


class _Reader:
    """One process, the rank's end of its socket, and what it was asked and hasn't answered, in order."""

    def __init__(self) -> None:
        self.asked: deque[Make] = deque()
        self.deaths = 0
        self.start()

    def start(self) -> None:
        context = reader_context()
        self.connection, theirs = context.Pipe()
        self.watch, watched = context.Pipe()
        self.process = context.Process(target=run_reader, args=(theirs, watched), daemon=True)
        self.process.start()
        theirs.close()
        watched.close()

    def send(self, message: Open | Make | Close, *, descriptor: int | None = None) -> bool:
        """Send, or tell that it is dead: that is made good at the latest when its answer is waited for."""
        try:
            self.connection.send_bytes(pickle.dumps(message))
            if descriptor is not None:
                send_handle(self.connection, descriptor, self.process.pid)
        except OSError:
            return False
        return True

    def stacks(self) -> str:
        """Ask what it does at this moment, by a signal that it can't miss; any thread may ask."""
        if self.process.pid is None or not self.process.is_alive():
            return "not alive"
        os.write(self.watch.fileno(), b"?")
        os.kill(self.process.pid, signal.SIGUSR1)
        told = b""
        while select.select([self.watch], [], [], QUIET_SECONDS)[0] and (more := os.read(self.watch.fileno(), 1 << 16)):
            told += more
        return told.decode(errors="replace")

    def stop(self) -> None:
        self.connection.close()  # it ends by itself, unless it is in the middle of a batch
        self.watch.close()
        self.process.join(timeout=0.2)
        self.process.kill()
        self.process.join()


class Readers:
    """The reader processes of a rank."""

    def __init__(self, count: int) -> None:
        self._readers = [_Reader() for _ in range(count)]
        self._readings: dict[int, _Reading] = {}
        self._opened = 0
        self._end = weakref.finalize(self, _end, self._readers, self._readings)  # at exit too, before modules go

    @property
    def pids(self) -> list[int | None]:
        """Tell the process id of each reader."""
        return [reader.process.pid for reader in self._readers]

    def read(self, job: Job, numbers: Iterable[int], *, samples: int, pinned: bool = False) -> Generator[Batch]:
        """Yield the job's batches of these numbers, in order, made ahead; each of up to `samples` float32.

        A batch lives in memory that is used again: it is valid until the next is asked for.

        Raises:
            NotestreamError: what a reader met, or a reader that died again and again.
            Exception: what else was raised in a reader, with its traceback as a note.
        """
        opened, reading = self._open(job, size=4 * samples, pinned=pinned)
        try:
            todo, sent, taken, readers, each = iter(numbers), 0, 0, len(self._readers), reading.each
            while True:
                while sent < taken + each * readers and (number := next(todo, None)) is not None:
                    slot = sent // readers % each + sent % readers * each
                    self._ask(sent % readers, Make(job=opened, number=number, slot=slot))
                    sent += 1
                if taken == sent:
                    return
                batch = self._take(taken % readers, reading)
                taken += 1
                yield batch
        finally:
            self._close(opened)

    def stacks(self) -> list[str]:
        """Tell of each reader which batch it is asked for, which row it has in hand and what its threads do."""
        told = []
        for k, reader in enumerate(self._readers):
            asked = f"asked for the batch at {reader.asked[0].number}" if reader.asked else "asked for nothing"
            told.append(f"reader {k} of {len(self._readers)}, pid {reader.process.pid}, {asked}:\n{reader.stacks()}")
        return told

    def kill(self) -> None:
        """End the processes at once, whatever they do; for the end of the rank."""
        for reader in self._readers:
            reader.process.kill()

    def close(self) -> None:
        """Stop the processes."""
        self._end()

    def _open(self, job: Job, *, size: int, pinned: bool) -> tuple[int, _Reading]:
        # a job may be large; neither side can then wait for the other to read, if nothing is on its way here
        for k, reader in enumerate(self._readers):
            while reader.asked:
                self._receive(k)
        self._opened += 1
        reading = _Reading(job, readers=len(self._readers), size=size)
        if pinned:
            reading.slots.pin()
        self._readings[self._opened] = reading
        for reader in self._readers:
            _send_job(reader, self._opened, reading)
        return self._opened, reading

    def _close(self, opened: int) -> None:
        reading = self._readings.pop(opened, None)
        if reading is None:  # all is closed
            return
        for reader in self._readers:
            reader.send(Close(job=opened))
        reading.slots.close()

    def _ask(self, k: int, make: Make) -> None:
        self._readers[k].asked.append(make)
        if not self._readers[k].send(make):
            self._start_anew(k)

    def _take(self, k: int, reading: _Reading) -> Batch:
        while not reading.made[k]:
            self._receive(k)
        make, made = reading.made[k].popleft()
        if isinstance(made, BaseException):
            raise made
        data = reading.slots.get(make.slot, size=made.size) if made.waveform is None else made.waveform
        waveform = from_bytes(data, dtype=made.dtype, shape=made.shape)
        return as_tensors(Batch(waveform=waveform, **made.fields))

    def _receive(self, k: int) -> None:
        """Take in a reader's next answer; if it died over that, start it anew: it may have nothing left to answer."""
        reader = self._readers[k]
        try:
            made = pickle.loads(reader.connection.recv_bytes())
        except (EOFError, OSError):
            self._start_anew(k)
            return
        except BaseException:  # Ctrl-C: half of an answer may be read, so this reader is of no more use
            reader.connection.close()
            raise
        reader.deaths = 0
        make = reader.asked.popleft()
        if make.job in self._readings:  # else nobody waits for it any more
            self._readings[make.job].made[k].append((make, made))

    def _start_anew(self, k: int) -> None:
        reader = self._readers[k]
        reader.stop()
        reader.deaths += 1
        code = reader.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        told = f"reader {k} of {len(self._readers)} {how}, making the batch at {reader.asked[0].number}"
        if reader.deaths > MOST_DEATHS:
            why = "is memory short?" if code < 0 else "a script that starts them needs `if __name__ == '__main__':`;"
            raise NotestreamError(f"{told}, {reader.deaths} times in a row: {why} readers=0 reads without")
        print(f"{told}: started anew", file=sys.stderr)  # noqa: T201
        reader.start()
        for opened, reading in self._readings.items():
            _send_job(reader, opened, reading)
        reader.asked = deque(make for make in reader.asked if make.job in self._readings)
        for make in reader.asked:
            reader.send(make)


def _end(readers: list[_Reader], readings: dict[int, _Reading]) -> None:
    for reader in readers:
        reader.stop()
    while readings:
        readings.popitem()[1].slots.close()


def _send_job(reader: _Reader, opened: int, reading: _Reading) -> None:
    message = Open(job=opened, pickled=reading.pickled, slots=reading.slots.count, size=reading.size)
    reader.send(message, descriptor=reading.slots.descriptor)


def reader_context() -> ForkServerContext | SpawnContext:
    """Return how readers are started: never by fork, which copies locked locks beside gRPC's and S3's threads."""
    if not linux.ON:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["streaming.warm"])  # imported once: a reader then starts in 0.1 s
    return context


def warm_readers() -> None:
    """Begin to import what readers need, in the process that they are forked from, while this one does other things."""
    if isinstance(reader_context(), ForkServerContext):
        forkserver.ensure_running()
