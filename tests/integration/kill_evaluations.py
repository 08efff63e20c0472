"""Run by test_evaluate_command.py in a process of its own: evaluates in forked children that are killed with SIGKILL.

Arguments: RUN KILLS FLAGS-AS-JSON. Prints the exit codes of the children as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from lookonce.commands.evaluate_student import main
from lookonce.train.evaluation.linear_probe import linear  # noqa: F401 - imported once, so that children start at once


def evaluate_and_kill(flags: list[str], metrics: Path) -> int:
    """One child, killed once it has logged another epoch, or done before; its exit code or -signal."""

    def lines() -> int:
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    wanted = lines() + 1
    child = os.fork()
    if child == 0:
        main(flags)  # leaves by sys.exit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if lines() >= wanted:
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.002)


if __name__ == "__main__":
    run, kills, flags = sys.argv[1:]
    arguments = [*json.loads(flags), "--out", run]
    print(json.dumps([evaluate_and_kill(arguments, Path(run) / "metrics.jsonl") for _ in range(int(kills))]))
