"""Recognises errors of torch, Ray, Python and the operating system that mean a missing resource of the machine.

One table maps classes and texts of exceptions to a message and advice. Neither torch nor Ray is imported: an exception
is recognised by the name of its class or by its text, anywhere in its chain of causes.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookonce.shared.errors import LookonceError, MachineError
from lookonce.shared.faults.os_errors import access_advice, os_reason

SHARED_MEMORY = Path("/dev/shm")
_LITTLE_MEMORY = "this machine has too little memory for this"


@dataclass(frozen=True)
class _Kind:
    """One resource that a machine may lack."""

    what: str
    """First part of the message."""
    classes: tuple[str, ...]
    """Names of exception classes that mean this."""
    texts: tuple[str, ...]
    """Parts of a message that mean this, in lower case."""
    advice: Callable[[Any], str]
    """Advice for a command's options (any object with the flags as attributes)."""
    several: bool = False
    """Whether it concerns runs of several processes only; elsewhere, other libraries use the same words."""


def machine_error(error: BaseException, options: Any = None) -> LookonceError | None:
    """The error for an exception that means a missing resource; None for any other exception.

    Args:
        error: any exception.
        options: options of the command, so that the advice names only flags that it has.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno not in (None, errno.EADDRINUSE):
            return _of_os_error(cause, options)
        for kind in _KINDS:
            if kind.several and alone:
                continue
            text, names = str(cause).lower(), {base.__name__ for base in type(cause).__mro__}
            if names.intersection(kind.classes) or any(part in text for part in kind.texts):
                return MachineError(f"{kind.what} ({_reason(cause)}); {kind.advice(options)}")
    return None


def shared_memory_error(error: OSError, options: Any = None) -> MachineError:
    """The error for an operating-system error that is known to concern shared memory."""
    return MachineError(f"shared memory is too small ({os_reason(error)}); {_more_shared_memory(options)}")


def _of_os_error(error: OSError, options: Any) -> LookonceError:
    """The error for an operating-system error that was not handled where it occurred."""
    path = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else None
    place = "" if path is None else f"{os.fsdecode(path)}: "
    if error.errno == errno.ENOMEM:  # whatever was opened in that moment, it is not at fault
        return MachineError(f"{_LITTLE_MEMORY} ({os_reason(error)}); {_less_memory(options)}")
    if error.errno == errno.ENOSPC and place.startswith(f"{SHARED_MEMORY}/"):
        return shared_memory_error(error, options)
    return MachineError(f"{place}{os_reason(error)}; {access_advice(error)}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, then its cause or context, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _reason(error: BaseException) -> str:
    """The first part of a message, without torch's advice about its own settings."""
    text = " ".join(str(error).split()) or type(error).__name__
    for end in (" If reserved but", " Exception raised from", " C++ CapturedTraceback", " Set TORCH", " Refer to"):
        text = text.partition(end)[0]
    return text if len(text) <= 240 else f"{text[:240]} ..."


def _less_memory(options: Any) -> str:
    ways = []
    if hasattr(options, "accumulate"):
        ways += ["--accumulate 4 (each step in four parts, the same numbers)", "--activation-checkpointing"]
    if hasattr(options, "train_batch_size"):
        ways.append("a smaller --train-batch-size")
    if hasattr(options, "batch_size"):
        ways.append("a smaller --batch-size")
    if hasattr(options, "workers"):
        ways.append("fewer --workers")
    ways = ways or ["a machine with more memory"]
    return f"try {' or '.join([', '.join(ways[:-1]), ways[-1]] if ways[1:] else ways)}; what was committed stays valid"


def _compiler(options: Any) -> str:
    return (
        "--compile needs a C++ compiler (on GPUs also a C compiler and triton): install g++, or leave --compile out: "
        "the steps are the same, only slower"
    )


def _more_shared_memory(options: Any) -> str:
    advice = "give this machine more of it (docker run --shm-size 8g; mount -o remount,size=8G /dev/shm)"
    if hasattr(options, "workers") and not hasattr(options, "executor"):
        advice = f"use --workers 0, or {advice}"
    with contextlib.suppress(OSError):
        size = os.statvfs(SHARED_MEMORY)
        free, total = (blocks * size.f_frsize / 2**20 for blocks in (size.f_bavail, size.f_blocks))
        return f"{SHARED_MEMORY} has {free:.0f} of {total:.0f} MiB free: {advice}"
    return advice


def _other_port(options: Any) -> str:
    here = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    return (
        f"another program, or a run that has not ended yet, has the port for this run's processes ({here}): "
        "give torchrun another one (--master-port, or --rdzv-endpoint HOST:PORT), or set MASTER_PORT"
    )


def _other_address(options: Any) -> str:
    here = f"MASTER_ADDR={os.environ.get('MASTER_ADDR', '')}, MASTER_PORT={os.environ.get('MASTER_PORT', '')}"
    return (
        f"process 0 of the run was not found where the environment says ({here}): give all processes the address of "
        "process 0's machine (torchrun --master-addr, or --rdzv-endpoint HOST:PORT), and open the port between them"
    )


_KINDS = (
    _Kind(
        "a GPU has too little memory for this",
        (),
        (
            "cuda out of memory",
            "hip out of memory",
            "cuda error: out of memory",
            "cublas_status_alloc_failed",
            "cudnn_status_alloc_failed",
        ),
        _less_memory,
    ),
    _Kind(
        "shared memory is too small",
        (),
        (
            "bus error",
            "out of shared memory",
            "insufficient shared memory",
            "unable to write to file </torch",
            "unable to open shared memory",
            "unable to allocate shared memory",
            "unable to resize file </torch",
        ),
        _more_shared_memory,
    ),
    _Kind(
        _LITTLE_MEMORY,
        ("MemoryError", "OutOfMemoryError"),
        (
            "defaultcpuallocator",
            "can't allocate memory",
            "cannot allocate memory",
            "not enough memory",
            "std::bad_alloc",
            "unable to allocate",
            "running low on memory",
        ),
        _less_memory,
    ),
    _Kind(
        "a process that prepares images was killed, which happens if memory is short",
        (),
        ("dataloader worker (pid",),
        _less_memory,
    ),
    _Kind(
        "this machine cannot start more threads or processes",
        (),
        ("can't start new thread", "thread creation failed", "resource temporarily unavailable"),
        lambda options: "raise the limit (ulimit -u; docker run --pids-limit), or use fewer workers",
    ),
    _Kind(
        "too many files are open",
        (),
        ("too many open files",),
        lambda options: "raise the limit (ulimit -n 65536), or use fewer workers, then run the same command again",
    ),
    _Kind(
        "the model could not be compiled on this machine",
        ("InvalidCxxCompiler", "CppCompileError", "CUDACompileError", "TritonMissing", "InductorError"),
        (
            "no working c++ compiler",
            "failed to find c compiler",
            "working triton installation",
            "cannot find cuda_home",
            "python.h: no such file",
        ),
        _compiler,
    ),
    _Kind(
        "the port is taken",
        (),
        ("eaddrinuse", "address already in use"),
        _other_port,
        several=True,
    ),
    _Kind(
        "the processes of the run cannot find each other",
        (),
        (
            "client socket has timed out",
            "client socket has failed to connect",
            "name or service not known",
            "temporary failure in name resolution",
            "no address associated with hostname",
        ),
        _other_address,
        several=True,
    ),
)
"""The first match in this order is used."""
