"""Which process wrote a file, and whether it still runs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Identity of this process; process numbers are valid in one namespace, until the machine reboots."""
    return {
        "host": os.uname().nodename,
        "place": this_place(),
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def this_place() -> str:
    """The namespace in which process numbers are valid: this boot of this machine or container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return os.uname().nodename


def is_running(identity: Mapping[str, Any]) -> bool:
    """Whether a process of this place still runs, by its number and the moment of its start."""
    return _started(identity.get("process")) == identity.get("started")


def _started(process: Any) -> str | None:
    """Start of a process of this machine, in ticks since boot; None if no process has this number."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]
