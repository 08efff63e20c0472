"""Clusters of our own (`ray start`): a head that dies, two raylets on this machine, one of them removed."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from scene import (
    CannotPlayError,
    Outcome,
    Running,
    Scene,
    ended,
    happened,
    is_over,
    receipts_of,
    told,
    until,
    workers_below,
)

Shards = tuple[set[str], set[str]]
"""Of the first and of the second node."""


class Cluster:
    """Ray nodes of one CPU each on this machine, on ports and in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = f"127.0.0.1:{_free_port()}"
        self.nodes: list[psutil.Process] = []
        self._logs: list[Path] = []

    def join(self) -> None:
        """Add a node, the first as the head."""
        port = self.address.partition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false"]
        self.nodes.append(self._start(*([f"--address={self.address}"] if self.nodes else head)))
        self._wait_for_raylet(len(self.nodes) - 1)

    def _wait_for_raylet(self, node: int) -> None:
        said = "Ray runtime started."
        until(lambda: said in self._logs[node].read_text() or self.nodes[node].status() == psutil.STATUS_ZOMBIE)
        if said not in (text := self._logs[node].read_text()):
            raise CannotPlayError(f"ray start failed: {text[-300:]}")

    def _start(self, *options: str) -> psutil.Process:
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            *options,
            "--num-cpus=1",
            "--block",
            "--node-ip-address=127.0.0.1",
            "--disable-usage-stats",
            f"--temp-dir={self._folder}",
            "--object-store-memory=100000000",
            f"--dashboard-agent-listen-port={_free_port()}",
            "--include-log-monitor=false",
        ]
        self._logs.append(self._folder / f"node-{len(self._logs)}.log")
        log = self._logs[-1].open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # RAY_AUTH_MODE is in it: see run.py
        return psutil.Process(subprocess.Popen(command, stdout=log, stderr=log, env=environment).pid)

    def process(self, node: int, name: str) -> psutil.Process | None:
        """``raylet`` or ``gcs_server`` of a node."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in self.nodes[node].children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if one.name() == name:
                        return one
        return None

    def workers(self, node: int) -> list[psutil.Process]:
        """Our actors on a node."""
        raylet = self.process(node, "raylet")
        return workers_below(raylet.children(recursive=True)) if raylet else []

    def kill(self, node: int) -> None:
        """SIGKILL to every process of a node at once."""
        family = [self.nodes[node], *self.nodes[node].children(recursive=True)]
        for kill in (psutil.Process.suspend, psutil.Process.kill):
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    kill(one)
        psutil.wait_procs(family, timeout=20)


@contextlib.contextmanager
def _cluster(nodes: int) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))  # short: sockets lie in it
    cluster = Cluster(folder)
    try:
        for _ in range(nodes):
            cluster.join()
        yield cluster
    finally:
        for node in range(len(cluster.nodes)):
            with contextlib.suppress(psutil.NoSuchProcess):
                cluster.kill(node)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _head_loses(scene: Scene, chance: random.Random, *names: str) -> Outcome:
    with _cluster(1) as cluster:
        root = scene.new_root()
        running = scene.start(root, executor="ray", workers=1, ray_address=cluster.address)
        wanted = chance.randrange(1, scene.shards // 2)
        until(lambda: root.is_dir() and len(receipts_of(root)) >= wanted, running=running)
        victims = [process for name in names if (process := cluster.process(0, name))]
        happened(not is_over(running) and len(victims) == len(names), told(ended(running)) if is_over(running) else "")
        for victim in victims:
            victim.kill()
        started = time.monotonic()
        over = ended(running)
        took = f"ended {time.monotonic() - started:.0f} s after it, {len(receipts_of(root))} of {scene.shards} there"
    return scene.outcome(root, f"{len(victims)} processes killed", told(over), took)


def head_killed(scene: Scene, chance: random.Random) -> Outcome:
    """`ray start --head`, the run joins by --ray-address: `kill -9` of gcs_server and raylet at a random shard; same
    command again without the cluster"""
    return _head_loses(scene, chance, "gcs_server", "raylet")


def gcs_killed(scene: Scene, chance: random.Random) -> Outcome:
    """the same, gcs_server alone"""
    return _head_loses(scene, chance, "gcs_server")


def raylet_killed(scene: Scene, chance: random.Random) -> Outcome:
    """the same, the raylet alone"""
    return _head_loses(scene, chance, "raylet")


def head_killed_local(scene: Scene, chance: random.Random) -> Outcome:
    """the head that --ray-address local started: `kill -9` of gcs_server and raylet; same command again"""
    root = scene.new_root()
    running = scene.start(root, executor="ray", workers=2)
    wanted = chance.randrange(1, scene.shards // 2)
    until(lambda: root.is_dir() and len(receipts_of(root)) >= wanted, running=running)
    victims = [process for process in running.family() if process.name() in ("gcs_server", "raylet")]
    happened(len(victims) == 2 and not is_over(running), "the kill came after the end")
    for process in victims:
        process.kill()
    started = time.monotonic()
    over = ended(running)
    took = f"ended {time.monotonic() - started:.0f} s after it, {len(receipts_of(root))} of {scene.shards} there"
    return scene.outcome(root, f"{len(victims)} processes killed", told(over), took)


def node_removed(scene: Scene, chance: random.Random) -> Outcome:
    """two raylets of one CPU each, one worker on each; who writes which shard is seen in /proc; every process of the
    second node is killed (`kill -9`) once both have written some"""
    with _cluster(2) as cluster:
        root = scene.new_root()
        running = scene.start(root, executor="ray", workers=2, ray_address=cluster.address)
        wanted = chance.randrange(2, 6)
        done = _watch(cluster, root, running, lambda done: all(len(shards) >= wanted for shards in done))
        there = len(receipts_of(root))
        happened(not is_over(running), told(ended(running)) if is_over(running) else "")
        cluster.kill(1)
        later = _watch(cluster, root, running)
        over = ended(running)
    seen = f"removed after {there} of {scene.shards} shards; until then {_shares(done)}"
    lost = f"{over.err.count('a worker was lost')} x 'a worker was lost'"
    return scene.outcome(root, told(over), seen, f"then {_shares(later)}", lost)


def _watch(
    cluster: Cluster, root: Path, running: Running, enough: Callable[[Shards], bool] = lambda _: False
) -> Shards:
    """Shards whose temporary files each node's workers hold open, until the run ends or it is enough."""
    done: Shards = (set(), set())
    workers: list[list[psutil.Process]] = [[], []]
    for turn in itertools.count():
        if is_over(running) or enough(done):
            return done
        if turn % 20 == 0:
            workers = [cluster.workers(node) for node in range(2)]
        for shards, processes in zip(done, workers, strict=True):
            for worker in processes:
                with contextlib.suppress(psutil.Error, OSError):
                    shards.update(_shards_open(worker, root))
        time.sleep(0.05)
    raise AssertionError


def _shards_open(worker: psutil.Process, root: Path) -> Iterator[str]:
    for file in worker.open_files():
        if Path(file.path).is_relative_to(root):
            parts = Path(file.path).relative_to(root).parts  # seed-0000/targets/c/SHARD/...
            if parts[1] == "targets" and ".tmp-" in parts[-1]:
                yield parts[3]


def _shares(done: Shards) -> str:
    first, second = (len(shards) for shards in done)
    return f"first node was seen writing {first} shards of each seed, second {second}"
