"""What is killed at random moments and run again: pushes, pulls, training from a URL, clean-up.

Nothing is lost, and nothing half-done is taken for whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import BUCKET, CREDENTIALS

from lookonce.stores.push import PushConfig, push_cache


def kill(script: str, s3: str, url: str, cache: Path, folder: Path, *, seed: int, kills: int) -> None:
    arguments = [str(cache), url, str(folder), str(seed), str(kills)]
    environment = {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": s3, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert json.loads(ended.stdout)["killed"] == kills


def test_killed_pushes_and_pulls_go_on(s3: str, training_cache, tmp_path: Path, files) -> None:
    cache = training_cache(seeds=(0,), container="webdataset")
    kill("kill_transfers.py", s3, f"s3://{BUCKET}/kills-1", cache, tmp_path / "out", seed=1, kills=20)
    assert files(tmp_path / "out") == files(cache)


@pytest.mark.slow  # quick: the same with 20 kills and one container
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_a_hundred_kills(s3: str, training_cache, tmp_path: Path, files, container: str) -> None:
    cache = training_cache(container=container)
    place = f"s3://{BUCKET}/kills-{container}"
    kill("kill_transfers.py", s3, place, cache, tmp_path / "out", seed=2 + (container == "zarr"), kills=100)
    assert files(tmp_path / "out") == files(cache)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("container", "kills"),
    [
        ("webdataset", 10),
        *(pytest.param(container, 100, marks=pytest.mark.slow) for container in ("zarr", "webdataset")),
    ],
)
def test_killed_training_from_a_url_and_killed_clean_up(
    s3: str, url: str, training_cache, tmp_path: Path, container: str, kills: int
) -> None:
    cache = training_cache(samples=24, shard_size=4, container=container)
    push_cache(PushConfig(cache=cache, url=url))
    kill("kill_runs.py", s3, url, cache, tmp_path / "killed", seed=kills, kills=kills)
