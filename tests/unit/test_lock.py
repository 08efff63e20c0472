"""One writer at a time, for caches and for runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lookonce.shared.errors import BusyError, StorageError
from lookonce.shared.files.lock import exclusive_folder
from lookonce.train.config import TrainingConfig
from lookonce.train.run import train_student

HOLDER = """
import os
import sys
from pathlib import Path
from lookonce.shared.errors import BusyError
from lookonce.shared.files.lock import exclusive_folder
with exclusive_folder(Path(sys.argv[1]), BusyError("busy")):
    os.write(1, b"held\\n")  # in one piece, beside what a fork of it says
    sys.stdin.read()
"""


def test_a_folder_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="busy"), exclusive_folder(folder, BusyError("busy")):
            pass
        holder.kill()
    with exclusive_folder(folder, BusyError("busy")):
        pass


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    """Processes that prepare images outlive a killed parent by seconds; the run is free at once all the same."""
    held = '    os.write(1, b"held'
    forking = HOLDER.replace(held, f'    os.fork() or os.write(1, b"forked\\n")\n{held}')
    holder = subprocess.Popen(
        [sys.executable, "-c", forking, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert {holder.stdout.readline(), holder.stdout.readline(), holder.stdout.readline()} == {"forked\n", "held\n"}
        with pytest.raises(BusyError, match="busy"), exclusive_folder(tmp_path, BusyError("busy")):
            pass
        holder.kill()
        holder.wait()
        with exclusive_folder(tmp_path, BusyError("busy")):
            pass


def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="for writing failed"), exclusive_folder(tmp_path / "file", BusyError("")):
        pass


def test_a_second_run_in_the_same_folder_is_told(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache, run = training_cache(), tmp_path / "run"
    with exclusive_folder(run, BusyError("")), pytest.raises(BusyError, match="another train-student is writing"):
        train_student(
            TrainingConfig(shards=(cache,), out=run, student="test_vit", layer_weights="top2"), show_progress=False
        )
    assert [path.name for path in run.iterdir()] == [".lock"], "nothing was written beside the first run's files"


@pytest.mark.parametrize("command", ["extract_features", "train_student", "feature_cache", "evaluate_student"])
def test_help_into_a_closed_pipe_is_no_error(command: str) -> None:
    code = f"from lookonce.commands.{command} import main; main(['--help'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (0, "")


class TestWithoutLocks:
    """A file system that has none: a file names the holder."""

    @pytest.fixture(autouse=True)
    def _lockless(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", refuse)

    def test_it_is_held_by_one_and_free_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):
            with exclusive_folder(tmp_path, BusyError("busy")):
                assert json.loads((tmp_path / ".lock-holder").read_text())["process"] == os.getpid()
                with pytest.raises(BusyError, match="busy"), exclusive_folder(tmp_path, BusyError("busy")):
                    pass
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        assert "has no locks: No locks available (ENOLCK); the file .lock-holder" in capsys.readouterr().err

    def test_a_dead_holder_of_this_machine_is_followed(self, tmp_path: Path) -> None:
        with exclusive_folder(tmp_path, BusyError("")):
            holder = json.loads((tmp_path / ".lock-holder").read_text())
        for other in ({"process": 2**22 + 1}, {"started": "1"}):  # no such process; one that has its number since
            (tmp_path / ".lock-holder").write_text(json.dumps({**holder, **other}))
            with exclusive_folder(tmp_path, BusyError("busy")):
                pass

    def test_of_another_machine_nothing_is_known(self, tmp_path: Path) -> None:
        there = {"host": "node7", "place": "elsewhere", "process": 12, "started": "1", "since": "2025-11-28 10:00:00"}
        (tmp_path / ".lock-holder").write_text(json.dumps(there))
        refused = pytest.raises(BusyError, match=r"process 12 on node7 has been writing here since 2025-11-28 10:00:00")
        with refused, exclusive_folder(tmp_path, BusyError("busy")):
            pass
        assert (tmp_path / ".lock-holder").exists()

    def test_a_holder_that_has_locks_keeps_out_who_has_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two machines one may have mounted a file system without locks."""
        with exclusive_folder(tmp_path, BusyError("")):
            monkeypatch.undo()
            with pytest.raises(BusyError, match="busy"), exclusive_folder(tmp_path, BusyError("busy")):
                pass


@pytest.mark.parametrize(("code", "advice"), [("EIO", "dmesg"), ("ESTALE", "mount it again"), ("EROFS", "read-only")])
def test_a_lock_that_fails_otherwise_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, advice: str
) -> None:
    number = getattr(errno, code)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    refused = pytest.raises(StorageError, match=rf"locking the folder failed: .*\({code}\).*{advice}")
    with refused, exclusive_folder(tmp_path, BusyError("")):
        pass
