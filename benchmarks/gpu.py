"""Checks and measurements that need a GPU, in one command, the most important first.

    python benchmarks/gpu.py [--stages checks,extract,step,study] [--minutes 10] [--out DIR] [--dry]

Each stage is a separate process with a share of the time; the next stages get the time that it does not need. It writes
``OUT/STAGE.json`` again after every number, and its output goes to ``OUT/gpu.log``. If a stage or the whole command is
killed, the earlier numbers remain. A short table is printed at the end.

``--dry`` runs every stage on the CPU with tiny models; its numbers mean nothing.

Exit code: 0 if every stage is complete; 1 if one failed; 3 if none failed, but the time of one ran out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gpu_stage import WHOLE, replace_json

HERE = Path(__file__).resolve().parent
WORTH = {"checks": 4, "extract": 4, "step": 3, "study": 3}
"""Stages in their order; a stage's share of the time is its number over those of the stages still to come."""
CUT_OFF = "cut off"
MEMORY, ROOM = "/dev/shm", 64 << 30
CLOSING = 5.0
"""Seconds reserved for the table."""


def share_of(stage: str, still: Sequence[str], left: float) -> float:
    """Seconds of a stage, of those that are left for it and all after it.

    >>> share_of("checks", ["checks", "extract"], 100.0), share_of("extract", ["extract"], 93.0)
    (50.0, 93.0)
    """
    return left * WORTH[stage] / sum(WORTH[name] for name in still)


def run_stage(name: str, seconds: float, out: Path, folders: Sequence[Path], *, dry: bool) -> str:
    """Run one stage to its end or its limit; returns how it ended, as in its result."""
    file, environment = out / f"{name}.json", dict(os.environ)
    environment["PYTHONUNBUFFERED"] = "1"
    if dry:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(HERE / f"gpu_{name}.py"), f"--json={file}", f"--seconds={seconds}"]
    command += [f"--{flag}={folder}" for flag, folder in zip(("work", "disk"), folders, strict=True)]
    with (out / "gpu.log").open("ab") as log:
        log.write(f"\n== {name}, at most {seconds:.0f} s\n".encode())
        log.flush()
        process = subprocess.Popen(
            [*command, *(["--dry"] if dry else [])], stdout=log, stderr=log, env=environment, start_new_session=True
        )
        state, code = "stopped with gpu.py", None
        try:
            code = process.wait(seconds)
            state = f"failed: ended with {code}"
        except subprocess.TimeoutExpired:
            state = f"{CUT_OFF} after {seconds:.0f} s"
        finally:
            _kill_group(process)
            for left in Path("/dev/shm").glob(f"lookonce-gpu-{process.pid}-*"):
                shutil.rmtree(left, ignore_errors=True)
            state = _close(file, name, state, ended=code is not None)
    return state


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """A stage and all that it started; its results are on disk already."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _close(file: Path, name: str, state: str, *, ended: bool) -> str:
    """The state that the stage wrote to its result; otherwise the given one, which is then written."""
    document = read(file) or {"name": f"gpu_{name}", "ratios": {}, "raw": {}}
    own = document.get("state", "running")
    if ended and own != "running":
        return str(own)
    replace_json(file, {**document, "state": state})
    return state


def read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text()) if file.is_file() else None


def table(stages: Sequence[str], out: Path) -> str:
    """States, then ratios; for failed stages, the file to read."""
    documents = {name: read(out / f"{name}.json") or {} for name in stages}
    machine = next((found["machine"] for found in documents.values() if "machine" in found), {})
    lines = [f"{machine.get('gpu') or machine.get('processor', 'no stage began')}, {machine.get('cores', 0)} cores", ""]
    for name, found in documents.items():
        lines.append(f"{name:<10}{found.get('seconds', 0.0):>7.1f} s  {found.get('state', 'not begun')}")
        lines += [f"    {test}" for test in _failed_tests(found)]
    lines.append("")
    for name, found in documents.items():
        lines += [f"{name + ': ' + label:<88}{value:>9.3f}" for label, value in found.get("ratios", {}).items()]
    return "\n".join(lines)


def _failed_tests(document: dict[str, Any]) -> list[str]:
    raw = document.get("raw", {})
    tests = [test for test, found in raw.get("tests", {}).items() if found["outcome"] == "failed"]
    return tests + [f"{test} (running)" for test in raw.get("running", [])]


def exit_code(states: Sequence[str]) -> int:
    """
    >>> exit_code(["whole"]), exit_code(["whole", "cut off after 3 s"]), exit_code(["failed: x", "cut off after 3 s"])
    (0, 3, 1)
    """
    if all(state == WHOLE for state in states):
        return 0
    return 3 if all(state == WHOLE or state.startswith(CUT_OFF) for state in states) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--stages", default=",".join(WORTH), help="some of them, in any order; default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all stages together")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of the results, new or empty")
    parser.add_argument("--dry", action="store_true", help="run every stage on the CPU with tiny models")
    options = parser.parse_args()
    asked = options.stages.split(",")
    if unknown := [name for name in asked if name not in WORTH]:
        parser.error(f"--stages: unknown {', '.join(unknown)}; known: {', '.join(WORTH)}")
    options.stages = [name for name in WORTH if name in asked]
    if any((options.out / f"{name}.json").exists() for name in WORTH):
        parser.error(f"--out {options.out}: contains results already; choose another folder")
    if not options.dry and not _gpu_at_hand():
        parser.error("torch finds no CUDA device here; --dry runs every stage on the CPU")
    return options


def _place(*, dry: bool) -> str | None:
    """Folder of the stages' files: memory if there is enough, as lent machines may have slow disks."""
    given = os.environ.get("LOOKONCE_BENCH_DIR")
    if given or dry or shutil.disk_usage(MEMORY).free < ROOM:
        return given
    return MEMORY


def _gpu_at_hand() -> bool:
    asked = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(asked, check=False).returncode == 0


def _stop(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def main() -> None:
    started = time.monotonic()
    options = _options()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    options.out.mkdir(parents=True, exist_ok=True)
    out, states = options.out.resolve(), list[str]()
    places = (_place(dry=options.dry), os.environ.get("LOOKONCE_BENCH_DIR"))
    folders = [Path(tempfile.mkdtemp(prefix="lookonce-gpu-", dir=place)) for place in places]
    deadline = started + options.minutes * 60 - CLOSING
    try:
        for place, name in enumerate(options.stages):
            seconds = share_of(name, options.stages[place:], max(0.0, deadline - time.monotonic()))
            states.append(run_stage(name, seconds, out, folders, dry=options.dry))
            print(f"{name}: {states[-1]}", flush=True)
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        shown = table(options.stages, out)
        (out / "table.txt").write_text(shown + "\n")
        print(f"\n{shown}", flush=True)
    sys.exit(exit_code(states))


if __name__ == "__main__":
    main()
