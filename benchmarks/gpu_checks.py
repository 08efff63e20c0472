"""The stage ``checks`` of gpu.py: ``pytest -m cuda``, each test's outcome written as it ends."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from gpu_stage import WHOLE, GrowingResult, stage

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 8
"""On a GPU; most of the time goes to building models and to compilers."""
FILES = ("precisions", "views", "batches", "extraction", "training", "processes", "teachers")
"""Of tests/cuda, the most important first."""


class Recorder:
    """A pytest plug-in; if the process dies in a test, the result names the tests without an outcome."""

    def __init__(self, result: GrowingResult) -> None:
        self._result, self._begun = result, list[str]()
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._begun.append(nodeid)
        self._write()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            test = {"outcome": report.outcome, "seconds": round(report.duration, 2)}
            if report.outcome == "failed":
                test["said"] = report.longreprtext[-3000:]
            elif report.outcome == "skipped":
                test["said"] = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._tests[report.nodeid] = test
        if report.when == "teardown" and report.nodeid in self._begun:
            self._begun.remove(report.nodeid)
        self._write()

    def _write(self) -> None:
        raw, outcomes = self._result.document["raw"], [test["outcome"] for test in self._tests.values()]
        raw |= {"tests": self._tests, "running": self._begun}
        counts = {name: outcomes.count(name) for name in ("passed", "failed", "skipped")}
        self._result.document["raw"] |= counts
        if judged := counts["passed"] + counts["failed"]:
            self._result.ratio("passed", counts["passed"] / judged)


def main() -> None:
    with stage("checks") as told:
        os.environ["LOOKONCE_CUDA_DRY"] = "1" if told.dry else "0"
        os.chdir(ROOT)
        arguments = ["-q", "-m", "cuda", "-W", "default", "-p", "no:cacheprovider", "--durations=10"]
        arguments += [f"tests/cuda/test_{name}_on_gpu.py" for name in FILES]
        if not told.dry and importlib.util.find_spec("xdist"):
            arguments += ["-n", str(PROCESSES), "--dist", "load", "--maxschedchunk", "1"]  # in order
        ended = pytest.main(arguments, plugins=[Recorder(told.result)])
        passed, failed = (told.result.document["raw"].get(name, 0) for name in ("passed", "failed"))
        if ended == pytest.ExitCode.OK and passed:
            told.result.end(WHOLE)
        else:
            told.result.end(f"failed: {failed} tests failed, {passed} passed (pytest ended with {int(ended)})")


if __name__ == "__main__":
    main()
