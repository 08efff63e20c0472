"""Extractions as users start them: real processes, real files, a tiny real teacher."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one error line; the test fails when there are others, or a traceback."""
        assert "Traceback" not in self.err
        errors = [line for line in self.err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        return errors[0]


class Running:
    """A command that was started, in its own session."""

    def __init__(self, forks: Forks, pid: int, stdout: Path, stderr: Path) -> None:
        self.pid = pid
        self._forks, self._stdout, self._stderr = forks, stdout, stderr

    def wait(self) -> Ended:
        code = self._forks.ask({"wait": self.pid})
        return Ended(code, self._stdout.read_text(), self._stderr.read_text())

    def family(self) -> list[psutil.Process]:
        """The process and all that descend from it, in whatever session."""
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    def kill_tree(self) -> None:
        """SIGKILL to all at once: none of them gets to clean anything up."""
        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.wait()
        _, alive = psutil.wait_procs(family[1:], timeout=20)
        assert not alive

    def interrupt(self, number: signal.Signals, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def until(self, condition: Callable[[], Any], *, patience: float = 240) -> Any:
        """Wait until something holds of a running command, for so many seconds."""
        deadline = time.monotonic() + patience
        while not (found := condition()):
            assert psutil.pid_exists(self.pid), self._stderr.read_text()
            assert psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE, self._stderr.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return found


class Forks:
    """Starts commands by forking a process that has their libraries already."""

    def __init__(self, folder: Path, **more: str) -> None:
        self._folder, self._count = folder, 0
        script = Path(__file__).with_name("command_forks.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._read() == "ready"

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        arguments: Sequence[Any],
        *,
        file_bytes: int = 0,
        memory_bytes: int = 0,
        user: int = 0,
        command: str = "extract-features",
        folder: Path | None = None,
        **environment: str,
    ) -> Running:
        self._count += 1
        stdout, stderr = (self._folder / f"{self._count:03d}.{name}" for name in ("out", "err"))
        request = {
            "start": [str(argument) for argument in arguments],
            "stdout": str(stdout),
            "stderr": str(stderr),
            "environment": environment,
            "file_bytes": file_bytes,
            "memory_bytes": memory_bytes,
            "user": user,
            "command": command,
            "folder": str(folder or Path.cwd()),
        }
        return Running(self, self.ask(request), stdout, stderr)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks(tmp_path_factory.mktemp("commands"))
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def faulty_forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Commands under a library that lets system calls fail as ``FLOCK_ERRNO``, ``MMAP_ERRNO`` and the like say."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the library that plays failing system calls")
    folder = tmp_path_factory.mktemp("faulty")
    source = Path(__file__).parents[1] / "helpers" / "fault.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "fault.so", source, "-ldl"], check=True)
    forks = Forks(folder, LD_PRELOAD=str(folder / "fault.so"))
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def start_processes(forks: Forks) -> Callable[..., list[Running]]:
    """Start train-student in several processes as a launcher would, each told its place by the environment."""

    def start(size: int, cache: Path, run: Path, **options: Any) -> list[Running]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        return [
            forks.start(
                [f"--shards={cache}", f"--out={run}", *flags],
                command="train-student",
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(size),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            )
            for rank in range(size)
        ]

    return start


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of timm's vit_tiny_patch16_224, without a head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), path)
    return path


SAMPLES, SHARDS = 24, 6


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 small random images in two class folders."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for row in range(SAMPLES):
        path = folder / f"class{row // 12}" / f"{row:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="session")
def tiny_arguments(tiny_weights: Path, tiny_images: Path) -> Callable[..., list[Any]]:
    """Arguments of a tiny extraction: 24 images, 6 shards; keyword arguments change or (None) drop flags."""

    def build(out: Path, **changes: Any) -> list[Any]:
        flags = {
            "teacher": "timm:vit_tiny_patch16_224",
            "teacher_weights": tiny_weights,
            "images": tiny_images,
            "out": out,
            "view_size": 32,
            "patch_size": 8,
            "shard_size": 4,
            "batch_size": 2,
            "executor": "inline",
            "seeds": "0-1",
        }
        flags.update(changes)
        given = [(f"--{name.replace('_', '-')}", value) for name, value in flags.items() if value is not None]
        return [part for pair in given for part in pair]

    return build


@pytest.fixture(scope="session")
def extract_tiny(forks: Forks, tiny_arguments: Callable[..., list[Any]]) -> Callable[..., Ended]:
    """Run a tiny extraction to its end."""
    return lambda out, **changes: forks.start(tiny_arguments(out, **changes)).wait()


@pytest.fixture(scope="session")
def whole_cache(extract_tiny: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted inline run of seeds 0 and 1 writes; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "cache"
    ended = extract_tiny(root)
    assert ended.code == 0, ended.err
    return root


KLT_FLAGS = {"precision": "klt1", "layers": "top2"}
"""Two layers, because the calibration of five takes some seconds."""


@pytest.fixture(scope="session")
def whole_klt_cache(extract_tiny: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in a precision that codes views; not to be changed."""
    root = tmp_path_factory.mktemp("whole-klt") / "cache"
    ended = extract_tiny(root, **KLT_FLAGS)
    assert ended.code == 0, ended.err
    return root


JPEG_FLAGS = {"pixels": "jpeg", "jpeg_quality": 90, "moments": "float16"}


@pytest.fixture(scope="session")
def whole_jpeg_cache(extract_tiny: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with views that are JPEGs; not to be changed."""
    root = tmp_path_factory.mktemp("whole-jpeg") / "cache"
    ended = extract_tiny(root, **JPEG_FLAGS)
    assert ended.code == 0, ended.err
    return root


@pytest.fixture(params=["int8", "klt1", "jpeg"])
def whole(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Path]:
    """A precision that codes values, one that codes views, and JPEGs: flags, and what they write; not to be changed."""
    if request.param == "int8":
        return {}, request.getfixturevalue("whole_cache")
    if request.param == "jpeg":
        return JPEG_FLAGS, request.getfixturevalue("whole_jpeg_cache")
    return KLT_FLAGS, request.getfixturevalue("whole_klt_cache")


def files_of(root: Path) -> dict[str, str]:
    """Every file below a folder, by relative path, with the digest of its bytes."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def times_of(root: Path) -> dict[str, int]:
    """Every file below a folder, by relative path, with its time of change in nanoseconds."""
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def files() -> Callable[[Path], dict[str, str]]:
    return files_of


@pytest.fixture(scope="session")
def times() -> Callable[[Path], dict[str, int]]:
    return times_of


def receipts_of(root: Path) -> list[Path]:
    return sorted((root / "receipts").glob("*/*.json"))


@pytest.fixture(scope="session")
def receipts() -> Callable[[Path], list[Path]]:
    return receipts_of
