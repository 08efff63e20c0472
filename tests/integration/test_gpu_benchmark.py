"""``benchmarks/gpu.py`` by its dry run: every stage, the table, and what is kept when it is cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
STAGES = ("checks", "extract", "step", "study")


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "--dry", "--out", str(out), *options]


def read(out: Path, stage: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / f"{stage}.json").read_text())
    return document


@pytest.mark.timeout(1900)
def test_a_dry_run_plays_every_stage(tmp_path: Path) -> None:
    """Takes a minute on two idle cores; the limits are for machines with other work."""
    done = subprocess.run(command(tmp_path, "--minutes", "30"), capture_output=True, text=True, check=False)
    log = (tmp_path / "gpu.log").read_text()
    assert done.returncode == 0, done.stdout + log[-6000:]
    for stage in STAGES:
        found = read(tmp_path, stage)
        assert {"name", "machine", "versions", "ratios", "raw"} <= found.keys()
        assert (found["name"], found["state"], found["quick"]) == (f"gpu_{stage}", "whole", True)
        assert found["machine"]["gpu"] is None
        assert "torch" in found["versions"]
        assert found["ratios"]
        assert all(line in done.stdout for line in (stage, *found["ratios"]))
    assert (tmp_path / "table.txt").read_text().strip() == done.stdout.split("\n\n", 1)[1].strip()
    tests = read(tmp_path, "checks")["raw"]["tests"]
    files = {name.partition("::")[0] for name, test in tests.items() if test["outcome"] == "passed"}
    assert files == {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/cuda/test_*.py")}
    raw = read(tmp_path, "extract")["raw"]
    parts = ("copy in", "normalise and encode", "copy out", "digest, all cores", "write")
    assert all(raw[f"tiny: int8, {part}"][0] > 0 for part in parts)
    assert all(raw[f"tiny: decode and cut, 2 seed(s) together, {way}"][0] > 0 for way in ("threads", "processes"))
    assert sorted(raw["tiny: whole compiled, 2 seed(s), to disk: limits"]) == [
        "card",
        "copy in",
        "copy out",
        "cores",
        "write",
    ]
    assert {"tiny: bare", "tiny: cached", "tiny: online", "tiny: released"} <= read(tmp_path, "step")["raw"].keys()
    assert {"fp16", "int8", "int4"} <= read(tmp_path, "study")["raw"].keys()


@pytest.mark.slow
def test_a_stage_that_is_cut_off_keeps_what_it_had_and_the_next_ones_are_run(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "--stages", "extract,step"), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "extract.json").is_file() or not read(tmp_path, "extract")["raw"]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM
    kept = read(tmp_path, "extract")
    assert kept["state"] == "stopped with gpu.py"
    assert kept["raw"]
    assert "stopped with gpu.py" in printed
    assert "not begun" in printed
    with pytest.raises(ProcessLookupError):  # nothing of it runs on
        os.killpg(process.pid, 0)


def test_no_time_is_a_cut_off_and_no_results_are_written_over(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, "--minutes", "0.1", "--stages", "step"), capture_output=True, check=False)
    assert done.returncode == 3
    assert read(tmp_path, "step")["state"].startswith("cut off after")
    again = subprocess.run(command(tmp_path), capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "contains results already; choose another folder" in again.stderr
    unknown = subprocess.run(command(tmp_path, "--stages", "steps"), capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
    assert "unknown steps; known: checks, extract, step, study" in unknown.stderr
