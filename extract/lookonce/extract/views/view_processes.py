"""View processes: each makes views for one thread of this process, which needs the GIL for messages only.

Threads alone are too slow for a fast GPU. A quarter of the work holds the GIL (Pillow's Python code, copies, random
numbers), so that 16 threads kept only four cores busy. The processes are not forked, because this process has threads
and a GPU, and not started by multiprocessing, which would run the user's main module again.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from lookonce.extract.views import view_process
from lookonce.extract.views.image_views import ViewProducer
from lookonce.extract.views.shared_patches import SharedPatches
from lookonce.extract.views.view_arrays import ViewArrays
from lookonce.extract.views.view_messages import Made, NotSetUp, Request, Setup
from lookonce.shared.errors import MachineError, UnreadableImageError
from lookonce.shared.faults.os_errors import os_reason
from lookonce.shared.images.decoding_room import machine_memory, room_for
from lookonce.shared.sources import ListingEntry

VIEWS_PER_MESSAGE = 16
"""More make messages no cheaper, and a batch is shared less evenly."""

SECONDS_TO_END = 10.0
"""How long an idle process may take to end before it is killed."""

_ADVICE = "give fewer --view-processes, or --view-processes 0 to make views in threads; what was committed stays valid"


class ViewProcesses:
    """Makes views in processes, one for each thread that asks, started when the thread asks first. A context manager.

    Args:
        producer: makes the views; can be pickled.
        patch_size: side of a patch, pixels.
        count: most processes; together they decode as many bytes at a time as the threads of one process may.
    """

    def __init__(self, producer: ViewProducer, patch_size: int, count: int) -> None:
        self._producer, self._patch_size, self._count = producer, patch_size, count
        self._setup = Setup(producer, patch_size, room_for(machine_memory()) // count)
        self._threads, self._lock = threading.local(), threading.Lock()
        self._started: list[_ViewProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes; no thread may be waiting for views."""
        for process in self._started:
            process.disconnect()
        for process in self._started:
            process.end()

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the started processes."""
        with self._lock:
            return [process.id for process in self._started]

    def images_per_call(self, images: int, seeds: int) -> int:
        """As many as fill a message, but not more than keep all processes busy."""
        return max(1, min(VIEWS_PER_MESSAGE // seeds, images // self._count))

    def make(
        self, rows: Sequence[int], entries: Sequence[ListingEntry], seeds: Sequence[int], into: ViewArrays
    ) -> list[UnreadableImageError | None]:
        """See ``ViewMaker.make``; called by the threads that own the processes.

        Raises:
            MachineError: a process cannot be started or was killed.
            SourceError: the source, not an image, is at fault.
        """
        process: _ViewProcess | None = getattr(self._threads, "process", None)
        if process is None:
            process = self._threads.process = _ViewProcess(self._setup)
            with self._lock:
                self._started.append(process)
        made = process.make(rows, entries, seeds, into)
        for index in made.left:
            made.problems[index] = into.fill(
                index, self._producer, self._patch_size, rows[index], entries[index], seeds
            )
        return made.problems


class _ViewProcess:
    """One process and the memory shared with it; used by one thread."""

    def __init__(self, setup: Setup) -> None:
        content = pickle.dumps(setup)
        try:
            self._memory = SharedPatches()
            try:
                self._process, self._connection = _started(self._memory)
            except OSError:
                self._memory.close()
                raise
        except OSError as error:
            raise MachineError(f"a view process cannot be started ({os_reason(error)}); {_ADVICE}") from error
        self._send(content, ())

    @property
    def id(self) -> int:
        return self._process.pid

    def make(
        self, rows: Sequence[int], entries: Sequence[ListingEntry], seeds: Sequence[int], into: ViewArrays
    ) -> Made:
        """Let the process make views, and copy them into arrays."""
        patches = self._memory.array(into.patches.shape)
        self._send(pickle.dumps(Request(rows, entries, seeds, patches.shape), pickle.HIGHEST_PROTOCOL), entries)
        try:
            made: Made | NotSetUp = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._lost(entries) from error
        if isinstance(made, NotSetUp):
            raise MachineError(f"a view process cannot make views of these images here ({made.reason}); {_ADVICE}")
        np.copyto(into.patches, patches)  # without the GIL
        for array, content in ((into.digests, made.digests), (into.parameters, made.parameters)):
            array[...] = np.frombuffer(content, array.dtype).reshape(array.shape)
        if made.jpegs is not None:
            into.jpegs[...] = made.jpegs
        return made

    def disconnect(self) -> None:
        """Let the process end."""
        self._connection.close()

    def end(self) -> None:
        """Wait until the process has ended."""
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._memory.close()

    def _send(self, content: bytes, entries: Sequence[ListingEntry]) -> None:
        try:
            self._connection.send_bytes(content)
        except ConnectionError as error:
            raise self._lost(entries) from error

    def _lost(self, entries: Sequence[ListingEntry]) -> MachineError:
        try:
            code = self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            how = "closed its connection"
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            if -code in (signal.SIGKILL, signal.SIGBUS):
                how += ", which happens if memory is short,"
        keys = [entry.key for entry in (entries[0], entries[-1])] if entries else []
        what = f"made the views of {' to '.join(repr(key) for key in dict.fromkeys(keys))}" if keys else "started"
        return MachineError(f"a view process {how} while it {what}; {_ADVICE}")


def _started(memory: SharedPatches) -> tuple[subprocess.Popen[bytes], Connection]:
    """A new process, and the connection with it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        descriptors = (theirs.fileno(), memory.descriptor)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", view_process.__name__, *map(str, descriptors)],  # -P: not from this folder
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(),
            process_group=0,  # Ctrl-C on the terminal must not reach it, even before it can ignore signals
        )
        return process, Connection(ours.detach())


def _environment() -> dict[str, str]:
    """Environment of a view process: it finds the modules of this process, and computes in one thread."""
    folders = [folder or str(Path.cwd()) for folder in sys.path if os.pathsep not in folder]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(folders)}
