"""The one file that `ray submit ray_cluster.yaml trainers/train.py -- ARGS` ships: it finds the code, and trains.

`ray submit` copies this file alone to the head's home and runs it there; the code lies in ~/app (file_mounts), or, run
from a checkout, in this file's own parent.
"""

import json
import os
import sys
from pathlib import Path

# beside what .gitignore and .rayignore name, should a copy of the code lack them
EXCLUDES = ["data/", "runs/", ".venv", ".git", "*.pem", "*.key", ".env", "auth_token"]


def find_root() -> Path:
    """Find the checkout: beside this file, else ~/app."""
    for root in (Path(__file__).resolve().parent.parent, Path.home() / "app"):
        if (root / "trainers" / "launch.py").is_file():
            return root
    sys.exit("notestream: the code is neither beside train.py nor in ~/app: keep file_mounts in ray_cluster.yaml")


def main() -> int:
    """Train with the given arguments on the cluster that this machine heads."""
    root = find_root()
    if sys.path[0] != str(root):
        sys.path[0] = str(root)  # else trainers/ itself would stand there, and hide nothing but confuse everything
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        # `ray job submit` sets it, with its own working_dir; without, workers get the code from here
        working_dir = {"working_dir": str(root), "excludes": EXCLUDES}
        os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps({"runtime_env": working_dir})
    from trainers.__main__ import main as door

    return door(["train", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
