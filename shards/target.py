"""target: where a pack is made. What is whole already, what isn't yet, and how the one becomes the other.

DST/SPLIT/.packing/plan.json         what is being packed: another pack is refused
DST/SPLIT/.packing/000007.parquet    shard 7's rows and hash: written once the tar is in place, so it is whole
DST/SPLIT/SPLIT-000007.tar           by a rename, or by an upload
WORK/                                tars under way: .packing itself, or a local folder where DST is a URL
"""

import dataclasses
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards import format
from shards.errors import DataError, UsageError
from shards.index_file import Shard, read_about
from shards.remote import Location, PathLike, locate

NAME = ".packing"
META_SHARD = b"shard"
UNDER_WAY = ".tmp"  # ends the name of each file that a kill makes worthless


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A tar that is whole but not yet in its place: its file, its rows for the index, its facts."""

    path: Path
    number: int
    table: pa.Table
    shard: Shard


def find_target(dst: PathLike, *, split: str) -> "Target":
    """Say where DST/SPLIT is made: what is under way lies on its disk, or below $TMPDIR for a URL."""
    folder = locate(dst) / split
    if (local := folder.local()) is not None:
        return Target(locate(local), local / NAME)
    digest = hashlib.blake2b(folder.text.encode(), digest_size=8).hexdigest()
    return Target(folder, Path(tempfile.gettempdir()) / "notestream" / f"packing-{digest}")


@dataclasses.dataclass(frozen=True)
class Target:
    """DST/SPLIT while it is packed. `work` is the local folder for tars under way."""

    folder: Location
    work: Path

    @property
    def kept(self) -> Location:
        """Where a plan and the shards' sidecars are kept until the index is written."""
        return self.folder / NAME

    def claim(self, options: Mapping[str, Any]) -> bool:
        """Make the place ours, or refuse it; True where this very pack is already done.

        Raises:
            UsageError: another pack, or tars of others, stand there.
        """
        done, plan = self.folder / format.INDEX_NAME, self.kept / "plan.json"
        is_done, stands = done.size() is not None, None
        if is_done:
            stands = read_about(done)["options"]
        elif plan.size() is not None:
            stands = json.loads(plan.read_bytes())
        if stands is not None and stands != options:
            differ = next((name for name in options if stands.get(name) != options[name]), "other options")
            raise UsageError(
                f"{self.folder} already holds a pack with {differ} {stands.get(differ)}, not {options.get(differ)}: "
                "pack into another folder, or remove this one"
            )
        if stands is None and any(name.endswith(".tar") for name in self.folder.children()):
            raise UsageError(
                f"{self.folder} holds tars that no pack of ours began: pack into another folder, or remove them"
            )
        if not is_done:
            self._begin(plan, options, new=stands is None)
        return is_done

    def _begin(self, plan: Location, options: Mapping[str, Any], *, new: bool) -> None:
        """Clear away tars that a kill left half-written; write the plan first of all."""
        self.work.mkdir(parents=True, exist_ok=True)
        self._sweep()
        if new:
            plan.write_bytes(json.dumps(dict(options)).encode())

    def whole(self) -> set[int]:
        """Number the shards that are whole."""
        return {int(name.removesuffix(".parquet")) for name in self.kept.children() if name.endswith(".parquet")}

    def publish(self, written: Written) -> None:
        """Put a tar in its place, then say that it is whole."""
        place = self.folder / written.shard.name
        if place.is_url:
            place.upload(written.path)
            written.path.unlink()
        else:
            format.replace_file(written.path, place.path)
        content = io.BytesIO()
        about = {META_SHARD: json.dumps(dataclasses.asdict(written.shard))}
        pq.write_table(written.table.replace_schema_metadata(about), content)
        self._sidecar(written.number).write_bytes(content.getvalue())

    def read_shard(self, number: int) -> Shard:
        """Read back a whole shard's facts."""
        with self._sidecar(number).open() as file:
            return Shard(**json.loads(pq.read_schema(file).metadata[META_SHARD]))

    def read_table(self, number: int) -> pa.Table:
        """Read back a whole shard's rows."""
        with self._sidecar(number).open() as file:
            return pq.read_table(file, read_dictionary=["shard"]).replace_schema_metadata()

    def check(self, shard: Shard) -> None:
        """Refuse to index a tar that has changed since it was written."""
        if (self.folder / shard.name).size() != shard.bytes:
            raise DataError(f"{self.folder / shard.name} changed while it was packed: remove {self.folder}, pack again")

    def clear(self) -> None:
        """Remove what only packing needed."""
        self.kept.remove_tree()
        shutil.rmtree(self.work, ignore_errors=True)

    def leave_nothing(self) -> None:
        """Remove the place again where not even one shard is whole; whole ones are kept for the next run."""
        self._sweep()
        if self.whole() or (self.folder / format.INDEX_NAME).size() is not None:
            return
        self.clear()
        if not self.folder.is_url and self.folder.path.is_dir() and not any(self.folder.path.iterdir()):
            self.folder.path.rmdir()

    def _sweep(self) -> None:
        for left in self.work.glob(f"*{UNDER_WAY}"):
            left.unlink(missing_ok=True)

    def _sidecar(self, number: int) -> Location:
        return self.kept / f"{number:06d}.parquet"
