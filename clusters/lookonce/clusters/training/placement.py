"""The number of training processes on a Ray cluster, and the resources of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lookonce.clusters.training.launcher_options import LauncherOptions
from lookonce.shared.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The processes of a run on a cluster."""

    processes: int
    """Number of all processes."""
    cpus: int
    """CPUs per process."""
    gpus: int
    """GPUs per process, 0 or 1."""
    strategy: str
    """Ray's placement strategy."""


def place(options: LauncherOptions, machines: Sequence[Mapping[str, float]], *, device: str) -> Placement:
    """Place the processes of a run.

    Args:
        options: of the command.
        machines: resources of each running machine, by Ray's names.
        device: of the run: cpu, cuda or auto.

    Raises:
        UsageError: the cluster has too few machines, CPUs or GPUs.

    >>> place(LauncherOptions(), [{"CPU": 8}], device="auto")
    Placement(processes=1, cpus=8, gpus=0, strategy='STRICT_PACK')
    """
    with_gpus = sorted((int(machine.get("GPU", 0)) for machine in machines), reverse=True)[: options.num_nodes]
    on_gpu = device != "cpu" and len(with_gpus) == options.num_nodes and with_gpus[-1] > 0
    each = options.processes_per_node or (with_gpus[-1] if on_gpu else 1)
    gpus = int(on_gpu)
    fit = [machine for machine in machines if machine.get("GPU", 0) >= each * gpus]
    chosen = sorted((int(machine.get("CPU", 0)) for machine in fit), reverse=True)[: options.num_nodes]
    cpus = options.cpus_per_process or max(1, (chosen[-1] if chosen else 0) // each)
    if len(chosen) < options.num_nodes or chosen[-1] < each * cpus:
        found = "; ".join(f"{int(m.get('CPU', 0))} CPUs, {int(m.get('GPU', 0))} GPUs" for m in machines) or "none"
        raise UsageError(
            f"--launcher ray: {options.num_nodes} machines with {each * cpus} CPUs and {each * gpus} GPUs each are "
            f"needed for {each} processes per machine (--num-nodes, --processes-per-node, --cpus-per-process), the Ray "
            f"cluster has these machines: {found}"
        )
    strategy = "STRICT_PACK" if options.num_nodes == 1 else "STRICT_SPREAD" if each == 1 else "SPREAD"
    return Placement(processes=options.num_nodes * each, cpus=cpus, gpus=gpus, strategy=strategy)
