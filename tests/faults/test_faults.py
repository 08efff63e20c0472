"""The fault matrix of docs/reliability.md: a few cheap rows always, all of it once among the slow tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # the imports of torch alone take minutes on a busy machine
SHORT = ["driver-killed", "disk-full"]


def play(report: Path, *options: str) -> dict[str, dict]:
    """Run the script as its users do; the rows by fault."""
    script = Path(__file__).with_name("run.py")
    command = [sys.executable, str(script), *options, "--times", "1", "--json", str(report)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return {row["fault"]: row for row in json.loads(report.read_text())}


@pytest.fixture(scope="module")
def short_rows(tmp_path_factory):
    report = tmp_path_factory.mktemp("faults") / "rows.json"
    return play(report, "--images", "24", "--only", *SHORT)


@pytest.mark.parametrize("fault", SHORT)
def test_what_is_there_in_the_end_is_what_an_undisturbed_run_writes(short_rows, fault):
    row = short_rows[fault]
    if row["skipped"]:
        pytest.skip(row["skipped"])
    assert (row["same"], row["times"]) == (1, 1)
    words = {
        "driver-killed": "killed",
        "disk-full": "the disk is full",
    }
    assert words[fault] in row["seen"][0]


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_whole_matrix(tmp_path):
    rows = play(tmp_path / "rows.json")  # exits 1 where a row does not end as it should
    assert len(rows) > 20
