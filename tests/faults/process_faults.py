"""Processes that die, stop, or come twice."""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import psutil
from scene import Outcome, Running, Scene, ended, happened, is_over, receipts_of, told, until, workers_below

RAY = {"executor": "ray", "workers": 2}


def driver_killed(scene: Scene, chance: random.Random) -> Outcome:
    """inline: `kill -9` of the only process at a random moment; same command again"""
    root = scene.new_root()
    running = scene.start(root)
    time.sleep(chance.uniform(0, scene.seconds))
    happened(not is_over(running), "the kill came after the end")
    there = len(receipts_of(root))
    running.kill_tree()
    return scene.outcome(root, f"killed when {there} of {scene.shards} shards were there")


def driver_killed_ray(scene: Scene, chance: random.Random) -> Outcome:
    """Ray, 2 local workers: `kill -9` of the driver alone at a random moment; same command again at once, while what
    is left of the first run may still write; no process of the first run may be left in the end"""
    root = scene.new_root()
    running = _start_until_a_random_moment(scene, chance, root)
    happened(not is_over(running), "the kill came after the end")
    family = running.family()[1:]
    os.kill(running.pid, 9)
    over = ended(running)
    outcome = scene.outcome(root, f"exit {over.code}", **RAY)
    _, alive = psutil.wait_procs(family, timeout=60)
    left = f"{len(alive)} of its processes LEFT" if alive else "none of its processes left"
    return Outcome((*outcome.seen, left), outcome.same and not alive, outcome.verified)


def everything_killed_ray(scene: Scene, chance: random.Random) -> Outcome:
    """Ray, 2 local workers: `kill -9` of all processes at once at a random moment (driver, head, workers); same
    command again"""
    root = scene.new_root()
    running = _start_until_a_random_moment(scene, chance, root)
    happened(not is_over(running), "the kill came after the end")
    running.kill_tree()
    return scene.outcome(root, "killed")


def _start_until_a_random_moment(scene: Scene, chance: random.Random, root: Path) -> Running:
    """Start a Ray run and wait: in a quarter of the cases while workers load, else until some shards are there."""
    running = scene.start(root, **RAY)
    until(lambda: len(workers_below(running.family())) == 2, running=running)
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0, 8))
    else:
        wanted = chance.randrange(1, scene.shards)
        until(lambda: root.is_dir() and len(receipts_of(root)) >= wanted, running=running)
        time.sleep(chance.uniform(0, 0.2))
    return running


KILLS = 5
"""Workers killed in one run."""


def worker_killed(scene: Scene, chance: random.Random) -> Outcome:
    """Ray, 2 local workers: `kill -9` of one of them, five times in a run, each at a random moment; a quarter of them
    while a worker loads"""
    root = scene.new_root()
    running = scene.start(root, **RAY)
    moments = sorted(chance.randrange(scene.shards - 2) for _ in range(KILLS))
    killed = 0
    for wanted in moments:
        until(lambda: len(workers_below(running.family())) == 2, running=running)
        until(lambda wanted=wanted: root.is_dir() and len(receipts_of(root)) >= wanted, running=running)
        time.sleep(chance.uniform(0, 8) if chance.random() < 0.25 else chance.uniform(0, 0.5))
        if not is_over(running) and (alive := workers_below(running.family())):
            chance.choice(alive).kill()
            killed += 1
    over = ended(running)
    lost = over.err.count("a worker was lost")
    happened(killed > 0, told(over))
    return scene.outcome(root, told(over), f"{killed} killed, {lost} x 'a worker was lost; ... to another'")


def worker_stopped(scene: Scene, chance: random.Random, pause: float = 60) -> Outcome:
    """Ray, 2 local workers: SIGSTOP of one at a random moment, SIGCONT a minute later"""
    root, running, victim = _with_a_stopped_worker(scene, chance)
    before, started = len(receipts_of(root)), time.monotonic()
    until(lambda: False, running=running, seconds=pause)
    during = len(receipts_of(root)) - before
    early = "ended while it was stopped" if is_over(running) else "waited for it"
    if victim.is_running():
        victim.resume()
    over = ended(running)
    after = time.monotonic() - started - pause
    return scene.outcome(
        root,
        told(over),
        f"{during} of {scene.shards - before} shards done by the other meanwhile",
        early,
        f"ended {after:.0f} s after SIGCONT",
    )


def worker_stopped_for_good(scene: Scene, chance: random.Random) -> Outcome:
    """Ray, 2 local workers, --stall-timeout 20: SIGSTOP of one, never continued"""
    root, running, victim = _with_a_stopped_worker(scene, chance, stall_timeout=20)
    before, started = len(receipts_of(root)), time.monotonic()
    over = ended(running)
    took = f"ended {time.monotonic() - started:.0f} s later, {before} of {scene.shards} shards were there"
    given_up = [line for line in over.err.replace("\r", "\n").splitlines() if "was given up" in line]
    happened(given_up, told(over))
    sentence = re.sub(r"worker \S+ was", "worker NODE:PROCESS was", given_up[0])
    left = "its process LEFT" if victim.is_running() else "its process is gone"
    return scene.outcome(root, told(over), took, f"'{sentence}'", left)


def _with_a_stopped_worker(
    scene: Scene, chance: random.Random, **changes: object
) -> tuple[Path, Running, psutil.Process]:
    root = scene.new_root()
    running = scene.start(root, **RAY, **changes)
    until(lambda: len(workers_below(running.family())) == 2, running=running)
    until(lambda: len(receipts_of(root)) >= chance.randrange(1, scene.shards // 3), running=running)
    happened(not is_over(running) and workers_below(running.family()), "no worker to stop")
    victim = chance.choice(workers_below(running.family()))
    victim.suspend()
    return root, running, victim


def two_drivers(scene: Scene, chance: random.Random) -> Outcome:
    """inline: the same command twice, 0 to 0.3 s apart"""
    root = scene.new_root()
    first = scene.start(root)
    time.sleep(chance.uniform(0, 0.3))
    second = scene.start(root)
    seen = sorted([told(ended(second)), told(ended(first))])
    return scene.outcome(root, *seen)


def two_drivers_ray(scene: Scene, chance: random.Random) -> Outcome:
    """Ray: the same command twice, 0 to 0.3 s apart, each with workers of its own"""
    root = scene.new_root()
    first = scene.start(root, executor="ray", workers=1)
    time.sleep(chance.uniform(0, 0.3))
    second = scene.start(root, executor="ray", workers=1)
    seen = sorted([told(ended(second)), told(ended(first))])
    return scene.outcome(root, *seen)
