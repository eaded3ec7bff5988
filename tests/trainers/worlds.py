"""worlds: the same run at several world sizes, each rank a process of its own that meets the others over gloo."""

import dataclasses
import json
import os
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import xxhash
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

from streaming.readers import reader_context
from trainers import loop
from trainers.config import TrainConfig, from_json, to_json
from trainers.prepare import prepare
from trainers.run import Run
from trainers.session import local_session
from trainers.step import Learner, StepResult

MOST_RANKS = 4


class Tiny(torch.nn.Module):
    """Two convolutions, without BatchNorm or dropout: 300 steps of it take seconds."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, stride=2), torch.nn.ReLU()
        )
        self.head = torch.nn.Linear(16, num_classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(pictures).mean((2, 3)))

    def get_classifier(self) -> torch.nn.Module:
        return self.head


class Pointwise(torch.nn.Module):
    """Hears each column by itself, as timm's networks are built: what it makes of silence is not nothing."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        self.body, self.head = torch.nn.Conv2d(1, 8, (40, 1)), torch.nn.Linear(8, num_classes)

    def forward_features(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.body(pictures).relu()

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.global_pool(features))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(pictures))


def open_ranks() -> ProcessPoolExecutor:
    """Processes to be ranks in, one run after another: to start one takes longer than most runs."""
    return ProcessPoolExecutor(MOST_RANKS, mp_context=reader_context())


def train_at(world_size: int, config: TrainConfig, *, name: str, ranks: ProcessPoolExecutor) -> Run:
    """Train a run to its end, without evaluation and report; each rank leaves its gradients' hashes, step by step."""
    resume = {"resume": name, "name": None} if Run.at(config.runs, name).config.exists() else {"name": name}
    prepared = prepare(dataclasses.replace(config, world_size=world_size, **resume))
    given = to_json(prepared.config), str(prepared.run.folder), world_size, free_port()
    for done in [ranks.submit(_be, rank, *given) for rank in range(world_size)]:
        done.result(timeout=120)
    return prepared.run


def kill_in(world_size: int, config: TrainConfig, *, name: str, after: int) -> Run:
    """Begin a run, or go on with it, and kill one of its ranks once `after` records are written; the others follow."""
    run = Run.at(config.runs, name)
    resume = {"resume": name, "name": None} if run.config.exists() else {"name": name}
    prepared = prepare(dataclasses.replace(config, world_size=world_size, **resume))
    given = to_json(prepared.config), str(run.folder), world_size, free_port()
    ranks = [reader_context().Process(target=_be, args=(rank, *given)) for rank in range(world_size)]
    for rank in ranks:
        rank.start()
    while not run.metrics.exists() or len(run.metrics.read_text().splitlines()) < after:
        assert all(rank.is_alive() for rank in ranks), "it ended before a rank could be killed"
        time.sleep(0.005)
    ranks[-1].kill()
    for rank in ranks:
        rank.join(30)  # gloo tells them that one is gone
        rank.kill()
    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
    try:
        with local_session(device="cpu") as session:
            loop.train(from_json(config, name="config"), run=Run(Path(folder)), session=session)
    finally:
        loop.train_step = step
    (Path(folder) / f"gradients-{rank}.json").write_text(json.dumps(seen))
