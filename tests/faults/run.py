"""Plays faults to extractions and says what was seen: ``python tests/faults/run.py [--only NAME ...] [--times N]``.

Every row ends with the same command run again, undisturbed; its files must be, byte for byte, those of a run that
nothing disturbed, and ``feature-cache verify --full`` must end with 0. Exits 1 when that is not so, or when a fault
could not be made to happen.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import clock_faults
import cluster_faults
import image_faults
import process_faults
import psutil
import storage_faults
from scene import CannotPlayError, MissedError, Outcome, Scene

Fault = Callable[[Scene, random.Random], Outcome]

FAULTS: dict[str, tuple[Fault, int]] = {
    "worker-killed": (process_faults.worker_killed, 4),
    "driver-killed": (process_faults.driver_killed, 20),
    "driver-killed-ray": (process_faults.driver_killed_ray, 3),
    "everything-killed-ray": (process_faults.everything_killed_ray, 3),
    "head-killed": (cluster_faults.head_killed, 2),
    "gcs-killed": (cluster_faults.gcs_killed, 1),
    "raylet-killed": (cluster_faults.raylet_killed, 1),
    "head-killed-local": (cluster_faults.head_killed_local, 1),
    "worker-stopped": (process_faults.worker_stopped, 1),
    "worker-stopped-for-good": (process_faults.worker_stopped_for_good, 1),
    "disk-full": (storage_faults.disk_full, 5),
    "disk-full-ray": (storage_faults.disk_full_ray, 1),
    "file-size-limit": (storage_faults.file_size_limit, 5),
    "read-only-folder": (storage_faults.read_only_folder, 2),
    "turned-read-only": (storage_faults.turned_read_only, 5),
    "image-deleted": (image_faults.image_deleted, 3),
    "image-replaced": (image_faults.image_replaced, 3),
    "image-replaced-same-size": (image_faults.image_replaced_same_size, 3),
    "corrupt-images": (image_faults.corrupt_images, 1),
    "clock-jump": (clock_faults.clock_jump, 2),
    "clock-jump-ray": (clock_faults.clock_jump_ray, 1),
    "two-drivers": (process_faults.two_drivers, 10),
    "two-drivers-ray": (process_faults.two_drivers_ray, 1),
    "node-removed": (cluster_faults.node_removed, 2),
}
"""What is played, and how often unless ``--times`` says otherwise."""


@dataclass
class Row:
    """One fault, played some times."""

    fault: str
    done: str
    times: int
    seen: list[str]
    """What was seen, alike ones counted."""
    same: int
    """How often the files were the undisturbed run's in the end, and verified."""
    seconds: float
    skipped: str = ""


def play(name: str, times: int | None, scene: Scene, seed: int) -> Row:
    """Play one fault."""
    fault, usual = FAULTS[name]
    row = Row(name, " ".join((fault.__doc__ or "").split()), times or usual, [], 0, 0.0)
    seen: collections.Counter[str] = collections.Counter()
    started = time.monotonic()
    for moment in range(row.times):
        try:
            outcome = _play_once(fault, scene, f"{seed} {name} {moment}")
        except CannotPlayError as reason:
            row.times, row.skipped = moment, str(reason)
            break
        row.same += outcome.same and outcome.verified
        seen["; ".join(_alike(line, scene) for line in outcome.seen)] += 1
        print(f"  {name} {moment + 1}/{row.times}: {asdict(outcome)}", file=sys.stderr, flush=True)
    row.seen = [f"{count} x {text}" for text, count in seen.most_common()]
    row.seconds = round(time.monotonic() - started, 1)
    return row


def _play_once(fault: Fault, scene: Scene, moment: str) -> Outcome:
    for attempt in range(5):
        try:
            return fault(scene, random.Random(f"{moment} {attempt}"))
        except MissedError as missed:
            print(f"  not played: {missed}", file=sys.stderr, flush=True)
            reason = str(missed)
    return Outcome((f"NOT PLAYED: {reason}",), same=False, verified=False)


def _alike(line: str, scene: Scene) -> str:
    """A line without what differs between two plays of a fault."""
    line = re.sub(rf"{re.escape(str(scene.folder))}/[\w.-]+(/cache)?", "CACHE", line)
    return re.sub(r"[\d.]+ views/s", "N views/s", line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--times", type=int, help="how often each is played")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--images", type=int, default=150, help="images of an extraction")
    parser.add_argument("--seeds", type=int, default=2, help="augmentation seeds of an extraction")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # clusters of our own listen on 127.0.0.1 alone
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its name; at Ray's own 15, other work starves the workers
    folder = Path(tempfile.mkdtemp(prefix="lookonce-faults-"))
    folder.chmod(0o755)
    rows: list[Row] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended, too
    try:
        scene = Scene(folder, images=options.images, seeds=options.seeds)
        print(f"an undisturbed inline run: {scene.seconds:.1f} s, {scene.shards} shards", flush=True)
        for name in options.only or FAULTS:
            rows.append(play(name, options.times, scene, options.seed))
            print(_line(rows[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    finally:
        for process in psutil.Process().children(recursive=True):
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(row.same < row.times for row in rows))


def _line(row: Row) -> str:
    """A row of the table, in Markdown."""
    seen = "<br>".join(row.seen) or f"skipped: {row.skipped}"
    return f"| {row.fault} | {row.done} | {seen} | {row.same} of {row.times} |"


if __name__ == "__main__":
    sys.exit(main())
