"""One uninterrupted run, that others are held against."""

from pathlib import Path

import pytest

from tests.trainers.runs import config
from trainers.launch import launch
from trainers.run import Run


@pytest.fixture(scope="session")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run on one rank."""
    return launch(config(data, tmp_path_factory.mktemp("runs")))
