"""mutations: whole bytes and a draw -> bytes to which something has happened. What the fuzz of packing feeds on.

Half of all changes fall into the first bytes, where a format keeps its lengths and rates; a tar's fields are changed
under a checksum that is right again, so that they are believed.
"""

import gzip
import io
import re
import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 512
HEAD = 64  # bytes in which half of the changes fall
NUMBERS = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 36)
TOKEN = re.compile(rb'"[^"\n]*"|-?[0-9][0-9.]*|[A-Za-z_]+')
TOKENS = (
    b"", b"-1", b"0", b"007", b"0.5", b"1e999", b"NaN", b"-Infinity", b"null", b"true", b"18446744073709551616", b'""',
    b'"../x"', b'"a.b"', b'"a/b"', b'"\\u0000"', b'"\\ud800"', b'"\\n"', b"[", b"[[1]]", b'{"a":{"b":1}}', b'"' * 3,
    b'"' + b"x" * 300 + b'"', b"9" * 5000, b"\xff\xfe", b",", b"\n", b"/etc/passwd", '"ü\u2028"'.encode(), b"audio/x",
)  # fmt: skip
NAMES = (b"../x.wav", b"/x.wav", b"nsynth-train/audio/x.wav", b"a.json", b"a.wav", b"x" * 100, b"\xff.wav", b".wav")
# a header's fields: where, how many bytes, and what else may stand there
FIELDS = (
    (0, 100, NAMES), (124, 12, (b"%011o" % 0, b"%011o" % (8**11 - 1), b"\x80" + bytes(10) + b"\x09", b"-1", b"")),
    (156, 1, tuple(b"012345xgLKSVD\0")), (157, 100, NAMES), (257, 8, (b"", b"ustar  ", b"USTAR\0")), (345, 155, NAMES),
)  # fmt: skip


def bend(rng: np.random.Generator, data: bytes) -> bytes:
    """Change one to three places of any bytes."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if changed:
            _change(rng, changed)
    return bytes(changed)


def _change(rng: np.random.Generator, data: bytearray) -> None:
    at = int(rng.integers(min(HEAD, len(data)) if rng.integers(2) else len(data)))
    size = int(rng.integers(1, 1 + min(40, len(data))))
    other = int(rng.integers(len(data)))
    match int(rng.integers(9)):
        case 0 | 1:
            data[at] ^= 1 << int(rng.integers(8))
        case 2:
            del data[at:]
        case 3:
            data[at:at] = rng.bytes(size)
        case 4:
            del data[at : at + size]
        case 5:
            data[at:at] = data[other : other + size]
        case 6:
            data[at : at + size] = bytes(len(data[at : at + size]))
        case 7:
            data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
        case _:
            number = NUMBERS[rng.integers(len(NUMBERS))] if rng.integers(4) else len(data) + int(rng.integers(-9, 9))
            packed = struct.pack(("<Q", ">Q")[rng.integers(2)], max(0, number))
            width = int(rng.choice((2, 4, 8)))
            data[at : at + width] = packed[:width] if packed[:width].strip(b"\0") else packed[-width:]


def bend_tar(rng: np.random.Generator, tar: bytes) -> bytes:
    """Change a tar: bytes of it, the order and number of its members, or a field under a checksum that is right."""
    how, (members, end) = int(rng.integers(6)), _split(tar)
    if how == 0 or not members:
        return bend(rng, tar)
    one, other = (int(rng.integers(len(members))) for _ in range(2))
    match how:
        case 1:
            members[one], members[other] = members[other], members[one]
        case 2:
            members.insert(one, members[other])
        case 3:
            del members[one]
        case 4:  # the contents of another, under this name
            members[one] = members[one][:BLOCK] + members[other][BLOCK:]
        case _:
            at, size, values = FIELDS[rng.integers(len(FIELDS))]
            value = values[rng.integers(len(values))]
            value = bytes([value]) if isinstance(value, int) else value
            members[one] = _with_field(members[one], value.ljust(size, b"\0"), at=at)
    return b"".join(members) + end


def _split(tar: bytes) -> tuple[list[bytes], bytes]:
    """Split a tar into its members, each a header and its contents, and what is left where no size can be read."""
    members, at = [], 0
    while re.fullmatch(b"[0-7]{11}", octal := tar[at + 124 : at + 135]):
        size = int(octal, 8)
        end = at + BLOCK + -(-size // BLOCK) * BLOCK
        members.append(tar[at:end])
        at = end
    return members, tar[at:]


def _with_field(member: bytes, value: bytes, *, at: int) -> bytes:
    head = bytearray(member[:BLOCK])
    head[at : at + len(value)] = value
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + member[BLOCK:]


def bend_gzip(rng: np.random.Generator, tar: bytes) -> bytes:
    """Change a tar and pack it, or pack it and change that: cut, repeated, in parts of which one lacks."""
    whole, cut = gzip.compress(tar, 1), int(rng.integers(len(tar)))
    match int(rng.integers(8)):
        case 0:
            return bend(rng, whole)
        case 1:
            return whole[: rng.integers(len(whole))]
        case 2:
            return whole + (whole, b"junk", bytes(99), whole[:99])[rng.integers(4)]
        case 3:  # parts, as gzip allows them
            return gzip.compress(tar[:cut], 1) + gzip.compress(tar[cut:], 1)
        case 4:
            return gzip.compress(tar[:cut], 1) + gzip.compress(tar[cut + int(rng.integers(600)) :], 1)
        case _:
            return gzip.compress(bend_tar(rng, tar), 1)


def bend_text(rng: np.random.Generator, text: bytes) -> bytes:
    """Change a JSON, csv or jsonl: bytes of it, a line, or a value for another."""
    how = int(rng.integers(4))
    if how == 0:
        return bend(rng, text)
    if how == 1:
        lines = text.splitlines(keepends=True)
        lines.insert(int(rng.integers(len(lines))), lines.pop(int(rng.integers(len(lines)))) * int(rng.integers(3)))
        return b"".join(lines)
    found = list(TOKEN.finditer(text))
    one, other = (found[rng.integers(len(found))] for _ in range(2))
    value = TOKENS[rng.integers(len(TOKENS))] if rng.integers(3) else other[0]
    return text[: one.start()] + value + text[one.end() :]


VALUES: tuple[Callable[[pa.Array], pa.Array], ...] = (
    lambda column: pa.nulls(len(column), column.type),
    lambda column: pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string()),
    lambda column: pa.array([-(2**31)] * len(column), pa.int32()),
    lambda column: pa.array([2**63 - 1] * len(column), pa.int64()),
    lambda column: pa.array([b"\xff\x00"] * len(column), pa.binary()),
    lambda column: pa.array([[1.5]] * len(column), pa.list_(pa.float64())),
    lambda column: pa.array([{"a": 1}] * len(column)),
    lambda column: column.take(pa.array(range(len(column))[::-1])),
)


def bend_parquet(rng: np.random.Generator, data: bytes) -> bytes:
    """Change a parquet file: bytes of it, a column's values or type, its rows, or bytes of its metadata."""
    how = int(rng.integers(5))
    if how < 2:
        return bend(rng, data)
    table = pq.read_table(io.BytesIO(data))
    at = int(rng.integers(table.num_columns))
    if how == 2:
        changed = VALUES[rng.integers(len(VALUES))](table.column(at).combine_chunks())
        table = table.set_column(at, table.column_names[at], changed)
    elif how == 3:
        table = [table.slice(1), table.remove_column(at), pa.concat_tables([table, table])][rng.integers(3)]
    elif table.schema.metadata:
        told = {name: bend_text(rng, value) for name, value in table.schema.metadata.items()}
        table = table.replace_schema_metadata(told)
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=(3, 1, 100)[rng.integers(3)])
    return out.getvalue()
