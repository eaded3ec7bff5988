"""checkpoint: a run's state -> a folder that is whole or not there. Weights as safetensors; nothing is unpickled.

    checkpoints/last/          model.safetensors  training.pt (optimizer)  state.json (cursor, ...)  manifest.json
    checkpoints/last-before/   the one before, for when the last is damaged later
    checkpoints/best/          the best validation so far

A checkpoint is written beside its place and renamed into it, the one before it kept; manifest.json, with every file's
size and hash, is written last. So a kill at any moment leaves one whole: restore takes the newest.
"""

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import xxhash

from shards.errors import DataError, UsageError
from shards.format import sync_folder, write_whole
from trainers.sync import MANIFEST

MODEL, TRAINING, STATE = "model.safetensors", "training.pt", "state.json"


def save_checkpoint(
    folder: Path, *, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Write FOLDER anew; the old one stands until the new one is whole, and then beside it."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    packed = io.BytesIO()
    torch.save(optimizer.state_dict(), packed)
    files = {
        MODEL: safetensors.torch.save({name: value.contiguous() for name, value in model.state_dict().items()}),
        TRAINING: packed.getvalue(),
        STATE: json.dumps(dict(state)).encode(),
    }
    try:
        for name, content in files.items():
            write_whole(fresh / name, content)
        write_whole(
            fresh / MANIFEST, json.dumps({name: _identity(content) for name, content in files.items()}).encode()
        )
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _take_place(fresh, folder)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Make TARGET the same checkpoint as SOURCE; its files are links where the disk can link. None is kept."""
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh, copy_function=_link)
    _take_place(fresh, target)
    shutil.rmtree(_before(target), ignore_errors=True)


def _take_place(fresh: Path, folder: Path) -> None:
    """Rename a whole checkpoint into its place, and the one there into the place of the one before."""
    if folder.exists():
        shutil.rmtree(_before(folder), ignore_errors=True)
        folder.rename(_before(folder))
    fresh.rename(folder)
    sync_folder(folder.parent)


def _before(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-before")


def newest(*folders: Path) -> Path | None:
    """Find the newest whole checkpoint that stands at a folder or beside it; of the first that has one, else None."""
    for folder in folders:
        places = (folder, folder.with_name(f".{folder.name}.new"), _before(folder))
        whole = [place for place in places if is_whole(place)]
        if whole:
            return max(whole, key=lambda place: read_state(place)["cursor"])
    return None


def is_whole(folder: Path) -> bool:
    """Tell whether every file of the manifest is there with its size and hash."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return all(_identity((folder / name).read_bytes()) == told for name, told in manifest.items())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def read_state(folder: Path) -> dict[str, Any]:
    """Read state.json of a checkpoint."""
    return json.loads((folder / STATE).read_bytes())


def read_files(folder: Path) -> dict[str, bytes]:
    """Read a checkpoint's files, so that one rank can hand them to all.

    Raises:
        DataError: the checkpoint isn't whole.
    """
    if not is_whole(folder):
        raise DataError(f"checkpoint {folder} is damaged or incomplete: take the other of last and best")
    return {name: (folder / name).read_bytes() for name in (MODEL, TRAINING, STATE)}


def state_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the state among a checkpoint's files."""
    return json.loads(files[STATE])


def restore_model(files: Mapping[str, bytes], model: torch.nn.Module) -> dict[str, Any]:
    """Put a checkpoint's weights into a model, and return its state.

    Raises:
        UsageError: the weights are of another network.
    """
    try:
        model.load_state_dict(safetensors.torch.load(files[MODEL]))
    except RuntimeError as error:
        raise UsageError("the checkpoint holds weights of another network: take the run's own config") from error
    return state_of(files)


def restore(files: Mapping[str, bytes], *, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint into model and optimizer, and return its state; nothing is unpickled."""
    state = restore_model(files, model)
    optimizer.load_state_dict(torch.load(io.BytesIO(files[TRAINING]), weights_only=True, map_location="cpu"))
    return state


def _identity(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "hash": xxhash.xxh3_128_hexdigest(content)}


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        return shutil.copy2(source, target)
    return target
