"""crops: a row, samples [first, last) -> just these, as bytes. For those who give up the crc32 to read less.

Two small reads instead of a whole one: the header, and the crop. A flipped bit is then heard and not seen, and what
lies outside the crop isn't looked at. Only WAV can be read so: a FLAC crop can't be found without decoding.
"""

import dataclasses

from shards import audio
from shards.audio import Header
from shards.errors import DataError
from streaming.decode import check_header, header_of
from streaming.store import Store

HEAD_BYTES = 512  # a WAV's format, and what little may stand before its sound


def read_crop(store: Store, row: int, first: int, last: int) -> tuple[bytes, Header, int]:
    """Return the bytes of the samples that there are of [first, last), a header for them, and the first one's number.

    The header's length is the whole note's, its data_offset 0. Where no crop can be found, all of it is read.

    Raises:
        DataError: it is no WAV or FLAC that can be read, isn't the sound that the index says, or is cut short.
    """
    _, part, at = store.pack.find(row)
    size, length = part.places["size"].item(at), part.places["length"].item(at)
    head = store.read_part(row, at=0, count=min(HEAD_BYTES, size))
    try:
        header = audio.read_header(head, size=size, name=store.name(row))
    except DataError:  # its sound may begin later
        header = None
    if header is None or header.codec != "wav":
        data = store.read(row)
        return data, header_of(store, row, data), 0
    check_header(header, store=store, row=row)
    first, last = (min(max(0, one), length) for one in (first, last))
    data = store.read_part(row, at=header.data_offset + 2 * first, count=2 * (last - first))
    return data, dataclasses.replace(header, data_offset=0), first
