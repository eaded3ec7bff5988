"""python -m shards: the doors of the packing room."""

import sys
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from shards.door import print_json, run_door


def render(
    out: tyro.conf.Positional[Path],
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
    src: tyro.conf.Positional[Path],
    dst: tyro.conf.Positional[Path],
    /,
    *,
    split: str,
    seed: int = 0,
    jobs: int = 1,
    codec: Literal["wav", "flac"] = "wav",
    limit: int | None = None,
    rows_per_shard: int = 1024,
    json: bool = False,
) -> None:
    """Pack a split of NSynth (folder or tar.gz) into DST/SPLIT: WebDataset tars and index.parquet.

    Args:
        src: an NSynth split's folder or jsonwav.tar.gz, or the folder that holds them.
        dst: the pack, a folder a split; training takes it as --data.
        split: name of the split, such as train, valid or test.
        seed: order in which notes are dealt to shards.
        jobs: packing processes; the bytes don't depend on it.
        codec: how audio is kept: wav as it is, flac at about half the size.
        limit: pack only so many notes, a fair draw.
        rows_per_shard: notes a tar; 1,024 of NSynth's take 133 MB.
        json: print what was packed as one JSON object.
    """
    from shards.pack import is_packed
    from shards.pack import pack as work
    from shards.show import describe

    known = is_packed(dst, split=split)
    done = work(src, dst, split=split, seed=seed, jobs=jobs, codec=codec, limit=limit, rows_per_shard=rows_per_shard)
    told = describe(done)
    if json:
        print_json(told)
    else:
        how = "there already:" if known else "packed"
        print(f"{how} {told['rows']:,} notes of {split} in {told['shards']} shards in {done.folder}")


def index(folder: tyro.conf.Positional[Path], /, *, json: bool = False) -> None:
    """Index any WebDataset tars (wav or flac, json or cls labels), so that they can be streamed. Rewrites nothing.

    Args:
        folder: DATA/SPLIT, the folder with a split's tars; index.parquet is written into it.
        json: print what was indexed as one JSON object.
    """
    from shards.indexing import index_folder
    from shards.show import describe

    told = describe(index_folder(folder))
    if json:
        print_json(told)
    else:
        print(f"indexed {told['rows']:,} samples in {told['shards']} shards of {folder}")


def show(data: tyro.conf.Positional[str], /, *, split: str | None = None, json: bool = False) -> None:
    """Show what is in a pack: shards, rows, hours, classes, rates, bytes, fingerprint.

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


VERBS = {"render": render, "pack": pack, "index": index, "show": show}

if __name__ == "__main__":
    sys.exit(run_door("shards", VERBS))
