"""worlds: the same run at several world sizes, each rank a process of its own that meets the others over gloo."""

import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import Any

import torch
import xxhash

from streaming.readers import reader_context
from trainers import loop
from trainers.config import TrainConfig, from_json, to_json
from trainers.prepare import prepare
from trainers.run import Run
from trainers.session import local_session
from trainers.step import Learner, StepResult


def train_at(world_size: int, config: TrainConfig, *, name: str) -> Run:
    """Train a new run, without its evaluation and report; each rank leaves its gradients' hashes, step by step."""
    prepared = prepare(dataclasses.replace(config, name=name, world_size=world_size))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = reader_context()  # what it has imported is there in each rank
    given = to_json(prepared.config), str(prepared.run.folder), world_size, port
    ranks = [context.Process(target=_be, args=(rank, *given)) for rank in range(world_size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    try:
        assert [rank.exitcode for rank in ranks] == [0] * world_size
    finally:
        for rank in ranks:
            rank.kill()
    return prepared.run


def gradients(run: Run) -> list[list[str]]:
    """The hashes that each rank left, (ranks, steps)."""
    return [json.loads(path.read_text()) for path in sorted(run.folder.glob("gradients-*.json"))]


def _be(rank: int, config: dict[str, Any], folder: str, world_size: int, port: int) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_PORT": str(port)})
    seen, step = [], loop.train_step

    def noted(learner: Learner, *args: Any, **options: Any) -> StepResult:
        result, digest = step(learner, *args, **options), xxhash.xxh3_64()
        for name, parameter in learner.model.named_parameters():
            if parameter.grad is not None:
                digest.update(name.encode())
                digest.update(parameter.grad.numpy().tobytes())
        seen.append(digest.hexdigest())
        return result

    loop.train_step = noted
    with local_session(device="cpu") as session:
        loop.train(from_json(config, name="config"), run=Run(Path(folder)), session=session)
    (Path(folder) / f"gradients-{rank}.json").write_text(json.dumps(seen))
