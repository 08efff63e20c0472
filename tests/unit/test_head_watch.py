from __future__ import annotations

import socket
import time

import pytest

from lookonce.clusters.cluster import ray_cluster
from lookonce.clusters.head_watch import HeadWatch
from lookonce.shared.errors import HeadLostError, RayStartError


def test_a_head_that_listens_is_there_and_one_that_stopped_is_lost_after_the_patience():
    with socket.create_server(("127.0.0.1", 0)) as head:
        watch = HeadWatch(f"127.0.0.1:{head.getsockname()[1]}", patience=0.2)
        for _ in range(3):
            time.sleep(0.25)
            watch.check()
    time.sleep(0.25)
    watch.check()  # the first silence
    time.sleep(0.25)
    with pytest.raises(HeadLostError, match=r"the Ray head at 127\.0\.0\.1:\d+ is gone: .* run the same command again"):
        watch.check()


def test_ray_that_does_not_start_is_an_error_of_ours(monkeypatch):
    def init(**_):
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(RayStartError, match=r"Ray did not start: The current node timed out .* --executor inline"):
        ray_cluster("local", without="--executor inline").__enter__()
