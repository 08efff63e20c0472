"""Options for starting the processes of a run; without importing Ray, so that ``train-student --help`` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lookonce.shared.config_values import Count, NonNegativeInt, validate
from lookonce.shared.given_flags import refuse_without_effect


@dataclass(frozen=True, kw_only=True)
class LauncherOptions:
    """How the processes of a run are started."""

    launcher: Literal["none", "ray"] = "none"
    """none: this process, or all processes of torchrun; ray: processes of a Ray cluster."""
    num_nodes: Count = 1
    """With --launcher ray: number of machines."""
    processes_per_node: Count | None = None
    """With --launcher ray: processes per machine, each with one GPU if there are any; default: one per GPU, or one."""
    cpus_per_process: Count | None = None
    """With --launcher ray: CPUs per process; default: an even share of the machine."""
    ray_address: str = "local"
    """With --launcher ray: local (starts a cluster), auto (the running one) or HOST:PORT."""
    max_restarts: NonNegativeInt = 3
    """With --launcher ray: how often the run resumes from its newest checkpoint after the loss of a process."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: names the flag, the value and the allowed range.
        """
        validate(self)
        if self.launcher == "none":
            refuse_without_effect(
                self,
                "--launcher ray",
                "num_nodes",
                "processes_per_node",
                "cpus_per_process",
                "ray_address",
                "max_restarts",
            )
