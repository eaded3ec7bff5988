"""python -m shards: the doors of the packing room."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from shards.door import print_json, run_door
from shards.errors import UsageError


def render(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    /,
    *,
    font: Path | None = None,
    notes: int = 1500,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Render notes of a SoundFont into NSynth's layout: OUT/nsynth-{train,valid,test}, instruments kept apart.

    Args:
        out: folder to make; a second run goes on where the first was interrupted.
        font: an .sf2 file; the one that pretty_midi carries unless given.
        notes: how many notes in all three splits together.
        seed: which notes, and which instruments are held out.
        json: print the summary as one JSON object.
    """
    from shards.render import render as work

    summary = work(out, font=font, notes=notes, seed=seed)
    if json:
        print_json(summary)
    else:
        told = ", ".join(f"{count:,} {split}" for split, count in summary["notes"].items())
        print(f"rendered {summary['font']} into {out}: {told} notes; {summary['reused']:,} were there already")


def pack(
    src: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")],
    dst: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DST")],
    /,
    *,
    split: str,
    seed: int = 0,
    jobs: int = 1,
    codec: Literal["wav", "flac"] = "wav",
    order: Literal["shuffled", "source"] = "shuffled",
    acoustic: bool = False,
    families: str | None = None,
    where: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    limit: int | None = None,
    rows_per_shard: int = 1024,
    layout: Literal["auto", "nsynth", "folders"] = "auto",
    table: Path | None = None,
    label_from: str | None = None,
    rename_keys: bool = False,
    mono: bool = False,
    resample: int | None = None,
    license: str = "unknown",
    json: bool = False,
) -> None:
    """Pack a split of NSynth (folder or tar.gz) or of any labelled audio folder into DST/SPLIT: tars and index.parquet.

    Args:
        src: an NSynth split's folder or jsonwav.tar.gz (a path, http(s):// or s3://), the folder that holds them, or
            a folder of audio.
        dst: the pack, a folder (or s3://, gs://) with a folder a split; training takes it as --data.
        split: name of the split, such as train, valid or test.
        seed: order in which notes are dealt to shards.
        jobs: packing processes, or a second thread for an archive; the bytes don't depend on it.
        codec: how audio is kept: wav as it is, flac at about half the size.
        order: shuffled by the seed, so that any reader meets all classes early; or the source's own.
        acoustic: of NSynth, only the acoustic instruments.
        families: of NSynth, only these instrument families, such as bass,brass.
        where: COLUMN=VALUE[,VALUE...], only the rows that have one of the values; give it again for another column.
        limit: pack only so many notes, a fair draw over what is left.
        rows_per_shard: notes a tar; 1,024 of NSynth's take 133 MB.
        layout: nsynth, or folders for any other audio: a folder a class, unless table or label_from tells labels.
        table: a .csv, .tsv, .jsonl or .parquet file with a column filename; its other columns are the labels.
        label_from: a pattern on file names, such as '{class}_{speaker}_{take}'; each field is a label.
        rename_keys: mend names that no key can be (dots, too long, the same twice); column original_key keeps them.
        mono: mix channels down by their mean; stereo is refused otherwise.
        resample: bring all files to this rate, in Hz; another rate than the first file's is refused otherwise.
        license: of the notes, for the dataset card, such as cc-by-4.0.
        json: print what was packed as one JSON object.
    """
    from shards.pack import is_packed
    from shards.pack import pack as work
    from shards.show import describe

    where += ("instrument_source_str=acoustic",) if acoustic else ()
    where += (f"instrument_family_str={families}",) if families else ()
    known = is_packed(dst, split=split)
    done = work(src, dst, split=split, seed=seed, jobs=jobs, codec=codec, order=order, where=where, limit=limit,
                rows_per_shard=rows_per_shard, layout=layout, table=table, label_from=label_from,
                rename_keys=rename_keys, mono=mono, resample=resample, license=license)  # fmt: skip
    told = describe(done)
    if json:
        print_json(told)
    else:
        how = "there already:" if known else "packed"
        print(f"{how} {told['rows']:,} notes of {split} in {told['shards']} shards in {done.folder}")


def index(
    shards: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")],
    /,
    *,
    out: str | None = None,
    split: str | None = None,
    json: bool = False,
) -> None:
    """Index any WebDataset tars (wav or flac, json or cls labels), so that they can be streamed. Rewrites nothing.

    Args:
        shards: a folder, or tars by name, glob or braces (train-{000000..000012}.tar); paths or URLs, of one folder.
        out: a pack's folder to write OUT/SPLIT/index.parquet in; without it the index goes beside the tars.
        split: name of the split; that of the tars' folder unless given.
        json: print what was indexed as one JSON object.
    """
    from shards.indexing import index_shards
    from shards.show import describe

    done = index_shards(shards, out=out, split=split)
    told = describe(done)
    if json:
        print_json(told)
    else:
        print(f"indexed {told['rows']:,} samples in {told['shards']} shards of {done.folder}, in {done.home}")


def verify(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    /,
    *,
    split: str | None = None,
    repair: str | None = None,
    json: bool = False,
) -> None:
    """Read every byte of a pack and hold it against its index: hashes, checksums, tar headers, labels.

    Args:
        data: the pack: a folder (or URL) with a folder a split.
        split: only this split.
        repair: the source that the split was packed of; damaged and missing shards are first written anew from it.
        json: print one JSON object a split and line, with its findings.
    """
    from shards.findings import tell_reports
    from shards.repair import repair as mend
    from shards.verify import verify as work

    if repair is not None:
        if split is None:
            raise UsageError("--repair mends one split at a time: name it with --split")
        done = mend(repair, data, split=split)
        print(f"rewrote {', '.join(done) or 'nothing'} of {data}/{split}", file=sys.stderr)
    tell_reports(work(data, split=split), data=data, json=json)


def show(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    /,
    *,
    split: str | None = None,
    json: bool = False,
) -> None:
    """Show what is in a pack: shards, rows, hours, classes and sources with counts, ranges, bytes, fingerprint.

    Args:
        data: the pack: a folder (or URL) with a folder a split.
        split: only this split.
        json: print one JSON object a split and line.
    """
    from shards.index import open_pack
    from shards.show import describe, open_all, show_table

    told = [describe(one) for one in ([open_pack(data, split=split)] if split else open_all(data))]
    if json:
        for one in told:
            print_json(one)
    else:
        Console().print(show_table(told))


VERBS = {"render": render, "pack": pack, "index": index, "verify": verify, "show": show}

if __name__ == "__main__":
    sys.exit(run_door("shards", VERBS))
