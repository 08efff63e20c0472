"""Run by test_training_resume.py in a process of its own: trains in forked children that are killed.

Arguments: CACHE RUN SIGNAL SEED KILLS CONFIG-AS-JSON. Prints the exit codes of the children as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from lookonce.commands.train_student import main
from lookonce.train import run as _imported_once  # noqa: F401 - so that children start at once


def train_and_kill(arguments: list[str], metrics: Path, number: signal.Signals, generator: random.Random) -> int:
    """One child, sent the signal after a random number of logged steps, or done before; its exit code or -signal."""
    lines = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    wanted = lines + generator.randrange(1, 6)
    child = os.fork()
    if child == 0:
        main(arguments)  # leaves by sys.exit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if metrics.exists() and len(metrics.read_text().splitlines()) >= wanted:
            time.sleep(generator.random() * 0.05)
            os.kill(child, number)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.002)


if __name__ == "__main__":
    cache, run, name, seed, kills, options = sys.argv[1:]
    flags = ["--shards", cache, "--out", run, *json.loads(options)]
    generator = random.Random(int(seed))
    metrics = Path(run) / "metrics.jsonl"
    codes = [train_and_kill(flags, metrics, signal.Signals[name], generator) for _ in range(int(kills))]
    print(json.dumps(codes))
