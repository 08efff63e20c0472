"""An extraction on a cluster of its own: what passes through Ray's object store, and workers that share a GPU."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

PROBE = """
import sys
import numpy as np, ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray._private.worker import _global_node
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
created = lambda: get_memory_info_reply(get_state_from_address(sys.argv[1])).store_stats.cumulative_created_bytes
before = created()
kept = ray.put(np.zeros(5_000_000, np.uint8))
print(before, created() - before)
"""
"""Bytes that were ever put into the object store, and how many more they are after 5 MB were put there."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def cluster():
    """Address of a head of two CPUs and a GPU that need not exist; ended by process id."""
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # short: sockets lie in it
    address = f"127.0.0.1:{free_port()}"
    command = [
        Path(sys.executable).with_name("ray"),
        "start",
        "--head",
        "--block",
        f"--port={address.partition(':')[2]}",
        "--node-ip-address=127.0.0.1",
        "--num-cpus=2",
        "--num-gpus=1",
        "--include-dashboard=false",
        "--disable-usage-stats",
        f"--temp-dir={folder}",
        "--object-store-memory=100000000",
    ]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        head = psutil.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while "Ray runtime started" not in (said := (folder / "log").read_text()):
            assert head.poll() is None, said
            psutil.wait_procs([head], timeout=0.1)
        yield address
    finally:
        family = [head, *head.children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_features_never_pass_through_the_object_store(forks, tiny_arguments, cluster, tmp_path):
    """Two workers, each with half a GPU of Ray's; where there is none, they look on the CPU."""
    arguments = tiny_arguments(
        tmp_path / "cache",
        view_size=224,
        patch_size=16,
        precision="fp16",
        shard_size=4,
        executor="ray",
        ray_address=cluster,
        workers=2,
        seeds="0-1",
    )
    ended = forks.start([*arguments, "--json"], RAY_AUTH_MODE="disabled").wait()
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert (result["views_written"], result["holes"]) == (48, 0)
    assert result["bytes"] > 20_000_000
    probe = subprocess.run(
        [sys.executable, "-c", PROBE, cluster],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    created, more = map(int, probe.stdout.split())
    assert 5_000_000 <= more < 6_000_000  # the measure measures
    assert created < 2_000_000
