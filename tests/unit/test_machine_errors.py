"""What the machine lacks is told as that, with a way out; a bug of ours stays one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lookonce.shared.errors import MachineError
from lookonce.shared.faults.machine_errors import machine_error

TRAINING = SimpleNamespace(accumulate=1, batch_size=1024, workers=2, compile=True)
EXTRACTION = SimpleNamespace(batch_size=32, workers="auto", executor="ray")
FINETUNING = SimpleNamespace(batch_size=32, train_batch_size=64, workers=2)
CONVERSION = SimpleNamespace(workers=1)


def raised(work: object) -> BaseException:
    with pytest.raises(BaseException) as caught:
        work()  # type: ignore[operator]
    return caught.value


@pytest.mark.parametrize(
    ("options", "ways"),
    [
        (TRAINING, ["--accumulate 4", "--activation-checkpointing", "--batch-size"]),
        (EXTRACTION, ["smaller --batch-size", "fewer --workers"]),
        (FINETUNING, ["smaller --train-batch-size"]),
        (CONVERSION, ["fewer --workers"]),
        (None, ["a machine with more memory"]),
    ],
)
def test_memory(options: object, ways: list[str]) -> None:
    errors = [
        raised(lambda: torch.empty(1 << 50)),
        raised(lambda: np.empty(1 << 58)),
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB."),
    ]
    for error in errors:
        known = machine_error(error, options)
        assert isinstance(known, MachineError)
        assert "memory" in str(known)
        for way in ways:
            assert way in str(known)
    assert "a GPU has too little memory" in str(machine_error(errors[-1], options))
    listing = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "/a/folder/of/torch")
    assert "/a/folder" not in str(machine_error(listing, options))  # the file is not at fault


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("No working C++ compiler found in torch._inductor.config.cpp.cxx", ["install g++", "--compile out"]),
        ("Failed to find C compiler. Please specify via CC environment variable", ["install g++", "--compile out"]),
        ("Cannot find a working triton installation. Either the package is not installed", ["triton", "--compile out"]),
        ("unable to write to file </torch_12_3_0>: No space left (28)", ["/dev/shm", "--workers 0", "--shm-size"]),
        (
            (
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that the workers are out "
                "of shared memory. Please try to raise your shared memory limit."
            ),
            ["/dev/shm", "--workers 0", "--shm-size"],
        ),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", ["was killed", "fewer --workers"]),
        ("can't start new thread", ["ulimit -u"]),
        ("[Errno 24] Too many open files", ["ulimit -n"]),
    ],
)
def test_of_torch(text: str, ways: list[str]) -> None:
    try:
        try:
            raise RuntimeError(text)
        except RuntimeError as error:
            raise ValueError("wrapped") from error
    except ValueError as error:
        known = machine_error(error, TRAINING)
    assert isinstance(known, MachineError)
    for way in ways:
        assert way in str(known)


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("The server socket has failed to listen on any local network address. port: 29500, EADDRINUSE", ["is taken"]),
        ("The client socket has timed out after 600000ms while trying to connect to (10.0.0.9, 29500).", ["not found"]),
    ],
)
def test_of_a_run_of_several_processes(monkeypatch: pytest.MonkeyPatch, text: str, ways: list[str]) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.9")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert machine_error(RuntimeError(text)) is None, "of a run of one it is of something else"
    monkeypatch.setenv("WORLD_SIZE", "2")
    known = str(machine_error(RuntimeError(text)))
    for way in [*ways, "29500", "torchrun"]:
        assert way in known


@pytest.mark.parametrize(
    ("name", "advice"),
    [("EDQUOT", "quota"), ("EMFILE", "ulimit -n"), ("EIO", "dmesg"), ("ESTALE", "mount it again"), ("ENOSPC", "room")],
)
def test_of_the_operating_system(tmp_path: Path, name: str, advice: str) -> None:
    number = getattr(errno, name)
    known = str(machine_error(OSError(number, os.strerror(number), str(tmp_path / "file"))))
    assert known.startswith(f"{tmp_path}/file: ")
    assert f"({name})" in known
    assert advice in known


def test_a_bug_is_no_fault_of_the_machine() -> None:
    for error in (
        ValueError("shapes (2, 3) and (4,) do not fit"),
        KeyError("targets"),
        RuntimeError("index out of range"),
    ):
        assert machine_error(error, TRAINING) is None
