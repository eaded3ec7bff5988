"""card: a pack's indexes -> a README.md with which Hugging Face's load_dataset(DATA) gives the audio rows, by path.

Without it datasets takes index.parquet for the data where a split has but a tar or two. The head names each split's
tars, and the type of every label: inferred from the first five rows, a list that is empty in them has no type, and a
later row fails. It tells the rows too, so that datasets refuses a damaged tar, which it reads as a shorter one. The
same pack and licence give the same bytes: no clock, no path.
"""

import contextlib
import dataclasses
import functools
import importlib.resources
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from shards import format
from shards.audio import CODECS
from shards.index import Pack, read_pack, splits_of
from shards.index_file import PLACE
from shards.remote import Location

CARD_NAME = "README.md"
TEMPLATE = "card.md.j2"
MARK = "<!-- notestream writes this card anew with every split. Without this line it lets the card be. -->"
UNKNOWN = "unknown"
FIRST = ("train", "valid", "validation", "val", "test")
LEARNT = ("instrument_family_str", "class", "category", "label")  # what the example asks for, where it's there
SIZES = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7,
         "10M<n<100M": 10**8, "100M<n<1B": 10**9}  # fmt: skip
DTYPES = {"double": "float64", "float": "float32"}  # datasets' names are Arrow's but for these
SHOWN = 200  # characters of a foreign name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """What a card says of one split. `alias` is its name in datasets, `tars` a pattern as seen from the card."""

    name: str
    alias: str
    tars: str
    shards: int
    rows: int
    bytes: int
    hours: float
    sample_rate: int
    codec: str
    labels: pa.Schema
    classes: Mapping[str, Sequence[str]]
    source: str


def write_cards(data: Location, *, license: str) -> None:
    """Write DATA/README.md over all splits that `pack` finished, and DATA/SPLIT/README.md for each alone.

    `license` is an id such as cc-by-4.0; "unknown" keeps what our card there says. Splits that `index` met elsewhere
    are left out: what their samples consist of isn't in the index. A README.md without our mark is left as it is,
    with a line on stderr.

    Raises:
        DataError: an index can't be read, or the store refuses.
    """
    splits = _read_splits(data)
    if not splits:
        return
    whole = _read_card(data / CARD_NAME)
    licence = " ".join(license.split()) or UNKNOWN
    licence = _licence_of(whole) if licence == UNKNOWN else licence
    _write_card(data / CARD_NAME, make_card(splits, root=".", licence=licence), stands=whole)
    for split in splits:
        path = data / split.name / CARD_NAME
        alone = dataclasses.replace(split, tars="*.tar")
        _write_card(path, make_card([alone], root="..", licence=licence), stands=_read_card(path))


def make_card(splits: Sequence[Split], *, root: str, licence: str) -> str:
    """Make the text of a card; `root` is the pack's folder as seen from it."""
    classes = splits[0].classes
    learnt = next((ascii(name) for name in (*LEARNT, *classes) if name in classes), None)
    labels = [
        {
            "name": name,
            "type": _say(dtype),
            "classes": len({value for one in splits for value in one.classes.get(name, ())}),
        }
        for name, dtype in join_labels(splits).items()
    ]
    head = yaml.safe_dump(_head(splits, licence=licence), sort_keys=False, width=2**31)  # a line a value
    return _template().render(
        head=head, mark=MARK, splits=splits, first=splits[0], labels=labels, licence=licence, learnt=learnt, root=root
    )


def _read_splits(data: Location) -> list[Split]:
    names = sorted(splits_of(data), key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    splits: list[Split] = []
    for name in filter(format.SPLIT_NAME.fullmatch, names):
        pack = read_pack(data, split=name)
        if pack.options.get("indexed") or pack.folder != pack.home or pack.codec not in CODECS:
            continue
        alias = name.replace("-", "_")  # datasets takes no dash
        while alias in [split.alias for split in splits]:
            alias += "_"
        splits.append(_describe(pack, name=name, alias=alias))
    return splits


def _describe(pack: Pack, *, name: str, alias: str) -> Split:
    length = sum(pc.sum(batch["length"]).as_py() or 0 for batch in pack.scan("length"))  # pyright: ignore[reportAttributeAccessIssue]
    return Split(
        name=name, alias=alias, tars=f"{name}/*.tar", shards=len(pack.shards), rows=pack.rows,
        bytes=int(pack.shards.bytes.sum()), hours=length / pack.sample_rate / 3600,
        sample_rate=pack.sample_rate, codec=pack.codec, classes=pack.classes,
        labels=pa.schema([field for field in pack.schema if field.name not in PLACE.names]),
        source=str(pack.options.get("source", "")),
    )  # fmt: skip


def _head(splits: Sequence[Split], *, licence: str) -> dict[str, Any]:
    rows = sum(split.rows for split in splits)
    files = [{"split": split.alias, "path": split.tars} for split in splits]
    # datasets wants num_bytes beside num_examples, and holds only the latter against what it read
    counts = [{"name": split.alias, "num_bytes": split.bytes, "num_examples": split.rows} for split in splits]
    return {
        "license": licence,
        "task_categories": ["audio-classification"],
        "tags": ["audio", "webdataset", "notestream"],
        "size_categories": [next((name for name, most in SIZES.items() if rows < most), "n>1B")],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"config_name": "default", "features": _features(splits), "splits": counts},
    }


def _features(splits: Sequence[Split]) -> list[dict[str, Any]]:
    """List the columns that datasets makes of a sample's members, as its YAML has them."""
    labels = [{"name": name, **dtype} for name, dtype in join_labels(splits).items() if dtype]
    rates = {split.sample_rate for split in splits}
    # told one rate, datasets would resample to it what has another
    sound = {"dtype": {"audio": {"sampling_rate": rates.pop()}} if len(rates) == 1 else "audio"}
    return [
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
        *([{"name": "json", "struct": labels}] if labels else []),
        *({"name": codec, **sound} for codec in sorted({split.codec for split in splits})),
    ]


def join_labels(splits: Iterable[Split]) -> dict[str, dict[str, Any] | None]:
    """Give each label of any split one type that holds it in all, in datasets' YAML; None where none does."""
    kinds: dict[str, pa.DataType | None] = {}
    for field in (field for split in splits for field in split.labels):
        met = kinds.setdefault(field.name, field.type)
        kinds[field.name] = met and _join(met, field.type)
    return {name: kind and _dtype(kind) for name, kind in kinds.items()}


def _join(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    schemas = [pa.schema([("", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        return None


def _dtype(kind: pa.DataType) -> dict[str, Any] | None:
    if pa.types.is_list(kind):
        item = _dtype(kind.value_type)
        return item and {"list": item.get("dtype", item)}
    name = DTYPES.get(str(kind), str(kind))
    held = name in ("bool", "string", "null", *DTYPES.values()) or pa.types.is_integer(kind)
    return {"dtype": name} if held else None


def _say(dtype: Mapping[str, Any] | None) -> str:
    if dtype is None:
        return "not one type in all splits: left out by datasets"
    return str(dtype["dtype"]) if "dtype" in dtype else f"list of {dtype['list']}"


def code(text: str) -> str:
    """Make foreign text a code span of one line, in which nothing is markup, HTML, or a table's border."""
    plain = "".join(one if one.isprintable() else " " for one in text)[:SHOWN].replace("`", "'").replace("|", r"\|")
    return f"`{plain}`" if plain.strip() else ""


@functools.cache
def _template() -> jinja2.Template:
    # Markdown is no HTML: `code` is what makes foreign text harmless here
    world = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    world.filters |= {"code": code, "number": lambda count: f"{count:,}"}
    return world.from_string(importlib.resources.files("shards").joinpath(TEMPLATE).read_text("utf-8"))


def _read_card(path: Location) -> str | None:
    return None if path.size() is None else path.read_bytes().decode("utf-8", "replace")


def _licence_of(card: str | None) -> str:
    """Read the licence that a card of ours tells."""
    found = re.search(r"^license: (.*)$", card, re.MULTILINE) if card and MARK in card.splitlines() else None
    with contextlib.suppress(yaml.YAMLError):
        return str(yaml.safe_load(found[1])) if found else UNKNOWN
    return UNKNOWN


def _write_card(path: Location, card: str, *, stands: str | None) -> None:
    if stands is not None and MARK not in stands.splitlines():
        told = "is no card of ours and stays as it is: remove it and pack again for one that Hugging Face can load by"
        print(f"{path} {told}", file=sys.stderr)  # noqa: T201
    elif card != stands:
        path.write_bytes(card.encode())
