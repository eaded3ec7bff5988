"""reader: what a rank asks -> batches in its memory. One process; it knows nothing that the rank hasn't told it.

It ends when its rank does: at the end of its socket, or by a thread that waits for that.
"""

import dataclasses
import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import linux
from shards.errors import NotestreamError
from streaming import decode, effects, hand, vocoder
from streaming.batch import TENSORS
from streaming.buffers import Slots
from streaming.pipeline import Maker, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Open:
    """A job begins; the descriptor of its memory follows."""

    job: int
    pickled: bytes
    slots: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Make:
    """A batch is asked for: `number` as the job counts, into a slot."""

    job: int
    number: int
    slot: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Close:
    """A job is over."""

    job: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """A batch, its waveform's bytes left in the slot (or along with it, where that is too small).

    `fields` are Batch's others, `dtype` the waveform's by torch's name.
    """

    fields: dict[str, Any]
    dtype: str
    shape: tuple[int, ...]
    size: int
    waveform: NDArray[np.uint8] | None


def run_reader(connection: Connection, watch: Connection) -> None:
    """Answer the rank until it ends; at `watch`, what this process hangs in can be asked for."""
    _prepare(watch)
    jobs: dict[int, tuple[Maker, Slots]] = {}
    try:
        while True:
            message = pickle.loads(connection.recv_bytes())
            if isinstance(message, Open):
                slots = Slots(count=message.slots, size=message.size, descriptor=recv_handle(connection))
                jobs[message.job] = Maker(pickle.loads(message.pickled)), slots
            elif isinstance(message, Close):
                jobs.pop(message.job)[1].close()
            else:
                connection.send_bytes(pickle.dumps(_make(*jobs[message.job], message)))
    except (EOFError, OSError):
        return


def _make(maker: Maker, slots: Slots, asked: Make) -> Made | BaseException:
    try:
        batch = maker.make(Task(number=asked.number, out=slots.waveform(asked.slot)))
    except Exception as error:
        return _portable(error)
    if isinstance(batch, NotestreamError):
        return batch
    # numpy's pickles are plain; torch's own would open a file in /dev/shm each
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    fields |= {name: np.asarray(fields[name]) for name in TENSORS[1:]}
    waveform = fields.pop("waveform")
    dtype, shape = str(waveform.dtype).removeprefix("torch."), tuple(waveform.shape)
    if not isinstance(waveform, np.ndarray):
        from streaming.tensors import as_bytes  # here: a user's stages made this, so torch is there already

        waveform = as_bytes(waveform)
    fits = slots.put(asked.slot, waveform)
    size, more = waveform.nbytes, None if fits else waveform.view(np.uint8)
    return Made(fields=fields, dtype=dtype, shape=shape, size=size, waveform=more)


def _portable(error: Exception) -> Exception:
    told = "".join(traceback.format_exception(error))
    error.add_note(f"In a reader:\n{told}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickle raises whatever the object raises
        return RuntimeError(f"a reader raised what can't be sent:\n{told}")
    return error


def _prepare(watch: Connection) -> None:
    """Make a fresh reader ready: its first batch then costs what the next ones do."""
    faulthandler.register(signal.SIGUSR1, file=watch.fileno(), all_threads=True)  # in C code too
    threading.Thread(target=_answer_watch, args=(watch,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the rank, which ends its readers
    threading.Thread(target=_follow, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"  # of torch, where a user's stage or transform imports it
    if torch := sys.modules.get("torch"):  # their script did already
        torch.set_num_threads(1)
    linux.keep_heap()
    decode.warm_up()
    effects.warm_up()
    vocoder.warm_up()


def _answer_watch(watch: Connection) -> None:
    """Tell the row in hand whenever a byte comes; silent while C code holds Python's lock."""
    while os.read(watch.fileno(), 1):
        os.write(watch.fileno(), f"in hand, last of all: {hand.tell()}\n".encode(errors="backslashreplace"))


def _follow() -> None:
    """End with the rank, in the middle of a batch too."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a reader is started by its rank"
    parent.join()
    os._exit(1)
