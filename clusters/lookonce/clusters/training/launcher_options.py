"""How the processes of a run are started; no ray here, so that ``train-student --help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_without_effect


@dataclass(frozen=True, kw_only=True)
class LauncherOptions:
    """Where the processes of a run come from."""

    launcher: Literal["none", "ray"] = "none"
    """none: this process, or all those that torchrun has started; ray: processes of a Ray cluster."""
    num_nodes: int = 1
    """With --launcher ray: machines of the run."""
    processes_per_node: int | None = None
    """With --launcher ray: processes a machine, each with one GPU where there are any; default: one a GPU, or one."""
    cpus_per_process: int | None = None
    """With --launcher ray: CPUs of a process; default: an even share of the machine's."""
    ray_address: str = "local"
    """With --launcher ray: local (a cluster is started), auto (the running one) or HOST:PORT."""
    max_restarts: int = 3
    """With --launcher ray: how often the run goes on from its newest checkpoint after it has lost a process."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        for name, least in (("num_nodes", 1), ("processes_per_node", 1), ("cpus_per_process", 1), ("max_restarts", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
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
