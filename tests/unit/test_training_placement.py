"""Where the processes of a run lie on a Ray cluster."""

from __future__ import annotations

from typing import Any

import pytest

from lookonce.clusters.training.launcher_options import LauncherOptions
from lookonce.clusters.training.placement import Placement, place
from lookonce.shared.errors import UsageError

GPU_MACHINE = {"CPU": 64.0, "GPU": 8.0, "memory": 1e12}
HEAD = {"CPU": 4.0, "memory": 1e10}


@pytest.mark.parametrize(
    ("options", "machines", "device", "expected"),
    [
        ({}, [GPU_MACHINE, HEAD], "auto", Placement(processes=8, cpus=8, gpus=1, strategy="STRICT_PACK")),
        (
            {"num_nodes": 2},
            [HEAD, GPU_MACHINE, GPU_MACHINE],
            "auto",
            Placement(processes=16, cpus=8, gpus=1, strategy="SPREAD"),
        ),
        (
            {"num_nodes": 2, "processes_per_node": 1},
            [GPU_MACHINE, GPU_MACHINE],
            "cuda",
            Placement(processes=2, cpus=64, gpus=1, strategy="STRICT_SPREAD"),
        ),
        (
            {"num_nodes": 2},
            [GPU_MACHINE, HEAD],
            "auto",
            Placement(processes=2, cpus=4, gpus=0, strategy="STRICT_SPREAD"),
        ),
        ({"processes_per_node": 3}, [HEAD], "cpu", Placement(processes=3, cpus=1, gpus=0, strategy="STRICT_PACK")),
        (
            {"processes_per_node": 2, "cpus_per_process": 5},
            [GPU_MACHINE],
            "cpu",
            Placement(processes=2, cpus=5, gpus=0, strategy="STRICT_PACK"),
        ),
    ],
)
def test_processes_share_their_machine(
    options: dict[str, Any], machines: list[dict[str, float]], device: str, expected: Placement
) -> None:
    assert place(LauncherOptions(launcher="ray", **options), machines, device=device) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"num_nodes": 3},
        {"processes_per_node": 9},
        {"processes_per_node": 8, "cpus_per_process": 9},
    ],
)
def test_what_a_cluster_has_no_place_for_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"--num-nodes.* has these machines: 64 CPUs, 8 GPUs; 4 CPUs, 0 GPUs"):
        place(
            LauncherOptions(launcher="ray", **options),
            [GPU_MACHINE, HEAD],
            device="auto" if "num_nodes" in options else "cuda",
        )


@pytest.mark.parametrize("name", ["num_nodes", "processes_per_node", "cpus_per_process", "max_restarts"])
def test_numbers_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} -1: must be at least"):
        LauncherOptions(launcher="ray", **{name: -1})
