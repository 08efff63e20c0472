"""Run by test_kills.py in a process of its own: pushes or pulls in forked children that are killed.

Arguments: CACHE URL FOLDER SEED KILLS. This process never opens a store, so that its children can. Prints as JSON how
many children were killed and how many ended. Exits with 1 and a traceback if something half-done was taken for whole.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from lookonce.cache.verify.verification import verify_cache
from lookonce.stores.pull import PullConfig, pull_cache
from lookonce.stores.push import PushConfig, push_cache
from lookonce.stores.transport import hub as _imported_once  # noqa: F401 - so that children start at once
from lookonce.stores.verify_url import verify_url

PATIENCE = 20.0
KILLED = -signal.SIGKILL


def in_child(work: Callable[[], object], seconds: float | None = None) -> int:
    """Exit code of a child that does the work; -9 if it was killed after some seconds before it ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        if seconds is not None:
            timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def check_url(url: str) -> None:
    """A cache whose manifest is there is whole; without one there is no cache."""
    report = verify_url(url, full=True, patience=PATIENCE)
    assert report.whole or {finding.path for finding in report.findings} == {"manifest.json"}, report.text()


def check_folder(folder: Path) -> None:
    """Every shard with a receipt is whole, and its seed has its metadata."""
    if not (folder / "manifest.json").exists():
        assert not (folder / "receipts").exists()
        return
    for finding in verify_cache(folder, full=True).findings:
        of_seed = folder / "receipts" / f"seed-{finding.seed or 0:04d}"
        unfinished = finding.path == "receipts" or "there is no receipt" in finding.problem
        assert unfinished or (finding.path.endswith("zarr.json") and not of_seed.exists()), finding


def kill(cache: Path, url: str, folder: Path, generator: random.Random, kills: int) -> dict[str, int]:
    found = {"killed": 0, "ended": 0}
    began = time.monotonic()
    assert in_child(lambda: push_cache(PushConfig(cache=cache, url=f"{url}/whole", patience=PATIENCE))) == 0
    duration, round_ = time.monotonic() - began, 0
    pull = PullConfig(url=f"{url}/whole", out=folder, patience=PATIENCE)
    while found["killed"] < kills:
        pushes = found["killed"] < kills // 2
        if pushes:
            place = f"{url}/{round_}"
            push = PushConfig(cache=cache, url=place, patience=PATIENCE)
            code = in_child(lambda push=push: push_cache(push), generator.random() * duration)
            assert in_child(lambda place=place: check_url(place)) == 0
        else:
            code = in_child(lambda: pull_cache(pull), generator.random() * duration)
            check_folder(folder)
        assert code in (0, KILLED)
        found["killed" if code else "ended"] += 1
        if code == 0:  # the next one begins anew
            round_ += 1
            if not pushes:
                assert verify_cache(folder, full=True).whole
                shutil.rmtree(folder)
    last = PushConfig(cache=cache, url=f"{url}/{round_}", patience=PATIENCE)
    assert in_child(lambda: push_cache(last)) == 0
    assert in_child(lambda: check_url(last.url)) == 0
    assert in_child(lambda: pull_cache(PullConfig(url=last.url, out=folder, patience=PATIENCE))) == 0
    return found


if __name__ == "__main__":
    cache, url, folder, seed, kills = sys.argv[1:]
    print(json.dumps(kill(Path(cache), url, Path(folder), random.Random(int(seed)), int(kills))))
