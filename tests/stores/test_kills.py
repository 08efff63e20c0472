"""Pushes and pulls that are killed at random moments and run again: nothing half-done is taken for whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import BUCKET, CREDENTIALS


def kill(s3: str, cache: Path, folder: Path, *, seed: int, kills: int) -> None:
    script = Path(__file__).with_name("kill_transfers.py")
    arguments = [str(cache), f"s3://{BUCKET}/kills-{seed}", str(folder), str(seed), str(kills)]
    environment = {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": s3}
    command = [sys.executable, str(script), *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert json.loads(ended.stdout)["killed"] == kills


def test_killed_pushes_and_pulls_go_on(s3: str, training_cache, tmp_path: Path, files) -> None:
    cache = training_cache(seeds=(0,), container="webdataset")
    kill(s3, cache, tmp_path / "out", seed=1, kills=20)
    assert files(tmp_path / "out") == files(cache)


@pytest.mark.slow  # quick: the same with 20 kills and one container
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_a_hundred_kills(s3: str, training_cache, tmp_path: Path, files, container: str) -> None:
    cache = training_cache(container=container)
    kill(s3, cache, tmp_path / "out", seed=2 + (container == "zarr"), kills=100)
    assert files(tmp_path / "out") == files(cache)
