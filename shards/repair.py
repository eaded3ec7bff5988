"""repair: a damaged pack, its source -> the same shards again, to the byte. The whole ones and the index stay."""

import shutil
from pathlib import Path

from shards import archive, format
from shards import pack as packing
from shards.errors import DataError, UsageError
from shards.index import Pack, Shard, read_pack
from shards.indexing import file_hash
from shards.nsynth import Source, find_source, open_folder
from shards.progress import Meter, meter
from shards.remote import locate
from shards.verify import verify_split

STAGING = ".repairing"


def repair(src: str | Path, data: str | Path, *, split: str) -> tuple[str, ...]:
    """Rewrite a split's damaged and missing shards from what it was packed of; return their names.

    Each is written beside the pack, held against the index's hash, and renamed into place. The index isn't touched.

    Raises:
        UsageError: the pack was indexed and not packed, or of another source.
        DataError: a rewritten shard isn't what it was, or the index itself is damaged.
    """
    if locate(data).is_url:
        raise UsageError(f"{data} is a URL, and repair writes to folders: repair a copy on disk, then upload it")
    pack = read_pack(data, split=split)
    folder = pack.folder.path
    if "source" not in pack.options:
        raise UsageError(f"{folder} was indexed, not packed by us: bring its tars again from where they came")
    report = verify_split(data, split=split)
    if not report.damaged:
        if report.findings:
            raise DataError(f"{folder} has whole tars and a damaged index ({report.findings[0]})")
        return ()
    staging = folder / STAGING
    try:
        (staging / packing.WORK).mkdir(parents=True, exist_ok=True)
        source = _open_source(src, pack, work=staging / packing.WORK)
        job = packing.Job(
            source=packing.select(source, limit=pack.options["limit"], seed=pack.options["seed"]),
            folder=staging, split=split, codec=pack.codec, rows_per_shard=pack.options["rows_per_shard"],
            seed=pack.options["seed"],
        )  # fmt: skip
        wanted = [shard for shard in pack.shards if shard.name in report.damaged]
        with meter(f"repairing {split}", total=sum(shard.rows for shard in wanted), unit="notes") as progress:
            for shard in wanted:
                _rewrite(job, shard, folder=folder, progress=progress)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report.damaged


def _open_source(src: str | Path, pack: Pack, *, work: Path) -> Source:
    """Open what the pack was made of; an archive's identity is looked at before it is unpacked."""
    found = find_source(Path(src), split=pack.split)
    is_archive = found.is_file()
    source = None if is_archive else open_folder(found)
    identity = archive.identity_of(found) if source is None else source.identity
    if identity != pack.options["source"]:
        raise UsageError(
            f"source {found} is not what {pack.folder} was packed of (identity {identity}, not "
            f"{pack.options['source']}): give that one, folder or tar.gz as it was then"
        )
    return source or archive.open_archive(found, work=work)


def _rewrite(job: packing.Job, shard: Shard, *, folder: Path, progress: Meter) -> None:
    numbers = {format.shard_name(job.split, number): number for number in range(job.shards)}
    if shard.name not in numbers:
        raise DataError(f"{folder / shard.name} is none of this packing's shards: bring it again from where it came")
    for _ in packing.write_shard(job, numbers[shard.name]):
        progress.advance()
    written = file_hash(job.folder / shard.name)
    if written != shard.hash:
        raise DataError(
            f"{shard.name} would be another than it was (xxh3-128 {written}, not {shard.hash}): the source's audio has "
            "changed, or libFLAC or webdataset have; pack anew into another folder"
        )
    format.replace_file(job.folder / shard.name, folder / shard.name)
