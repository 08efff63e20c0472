"""Common parts of the benchmarks: rounds that alternate contestants, medians of ratios, the machine, a table, JSON."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "lookonce",
    "torch",
    "timm",
    "open_clip_torch",
    "triton",
    "pillow",
    "numpy",
    "zarr",
    "webdataset",
    "tensorstore",
    "litdata",
    "mosaicml-streaming",
)

os.environ.setdefault("LOOKONCE_CATALOGUE", "none")  # caches of benchmarks are removed when they end


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` and ``--json FILE``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes; ends within minutes on two cores")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    return parser.parse_args()


def alternate(
    contestants: Mapping[str, Callable[[], int]], rounds: int, *, between: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Units per second of each contestant in each round; one warm-up round is not counted.

    Args:
        contestants: name to a function that does the job once and returns how many units it did.
        rounds: counted rounds; every round runs every contestant, so that a noisy moment hits all of them.
        between: called before each of them, and not timed.
    """
    *_, rates = alternating_rounds(contestants, rounds, between=between)
    return rates


def alternating_rounds(
    contestants: Mapping[str, Callable[[], int]], rounds: int, *, between: Callable[[], object] = lambda: None
) -> Iterator[dict[str, list[float]]]:
    """The same, yielded after every counted round, so that a cut-off keeps what was measured."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for counted in [False] + [True] * rounds:
        for name, job in contestants.items():
            between()
            started = time.perf_counter()
            units = job()
            rate = units / (time.perf_counter() - started)
            if counted:
                rates[name].append(rate)
        if counted:
            yield {name: list(values) for name, values in rates.items()}


def ratio(rates: Mapping[str, list[float]], ours: str, theirs: str) -> float:
    """Median over rounds of ours over theirs."""
    return round(statistics.median(a / b for a, b in zip(rates[ours], rates[theirs], strict=True)), 3)


def report(
    name: str, options: argparse.Namespace, ratios: Mapping[str, float], raw: Mapping[str, Any], unit: str
) -> None:
    """Print a table, and write JSON if asked."""
    print(f"\n{name}: {machine()['processor']}, {machine()['cores']} cores\n")
    print(f"{'contestant':<34}{unit:>16}{'spread':>12}")
    for label, values in raw.items():
        if isinstance(values, list) and values:
            middle = statistics.median(values)
            spread = (max(values) - min(values)) / middle
            print(f"{label:<34}{middle:>16,.1f}{spread:>11.0%}")
    print(f"\n{'ratio':<34}{'value':>16}")
    for label, value in ratios.items():
        print(f"{label:<34}{value:>16.3f}")
    if options.json:
        document = {
            "name": name,
            "quick": options.quick,
            "machine": machine(),
            "versions": versions(),
            "ratios": dict(ratios),
            "raw": dict(raw),
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Description of this machine."""
    description: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    try:
        import torch
    except ImportError:
        return description
    description["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if description["gpu"]:
        properties = torch.cuda.get_device_properties(0)
        description["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        description["gpu_driver"], description["cuda"] = _driver(), torch.version.cuda
    return description


def versions() -> dict[str, str]:
    """Installed versions of the libraries that matter."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def end_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _driver() -> str | None:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] if told else None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
