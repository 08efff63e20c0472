"""A file system that refuses: what is sound is never called damaged, nothing is to be deleted, and locks are replaced.

System calls fail as ``tests/helpers/fault.c`` is told by the environment, in commands that run under it.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY = ["--student=test_vit", "--layer-weights=top2", "--epochs=2", "--batch-size=4", "--device=cpu", "--log-steps=1"]
ERRNOS = (
    "EACCES",
    "ESTALE",
    # quick tests of these numbers: unit/test_machine_errors.py, and other objects below
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("ENODEV", "EPERM", "EIO", "ETIMEDOUT", "ENOTCONN")),
)
LOCKLESS = ("ENOLCK", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ENOSYS", "EOPNOTSUPP")))
UNMAPPED = (
    ("zarr", "ENODEV"),
    ("webdataset", "EACCES"),
    # the others differ from these by the number or the container alone
    *(
        pytest.param(*pair, marks=pytest.mark.slow)
        for pair in (("zarr", "EACCES"), ("zarr", "EINVAL"), ("webdataset", "ENODEV"), ("webdataset", "EINVAL"))
    ),
)


def refuses(name: str, path: str, *, call: str = "OPEN") -> dict[str, str]:
    """Environment in which a call fails for every file whose path has such a part."""
    return {f"{call}_ERRNO": str(getattr(errno, name)), f"{call}_BAD": path}


def unmapped(name: str, root: Path) -> dict[str, str]:
    return {"MMAP_ERRNO": str(getattr(errno, name)), "MMAP_PATH": str(root)}


def is_about_access(sentence: str, name: str, *parts: str) -> None:
    assert f"({name})" in sentence or name == "EOPNOTSUPP", sentence
    for part in (*parts, "which does not mean that it is damaged", "run the same command again"):
        assert part in sentence, sentence
    for false in ("delete", "bug", "truncated", "restore", "remove"):
        assert false not in sentence, sentence


@pytest.fixture
def faulty(faulty_forks: Any) -> Callable[..., Any]:
    """Run a command under faults to its end."""
    return lambda command, *arguments, **faults: faulty_forks.start(arguments, command=command, **faults).wait()


class TestReading:
    @pytest.mark.parametrize("name", ERRNOS)
    def test_an_object_in_training(
        self, faulty: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path, name: str
    ) -> None:
        cache, run = training_cache(), tmp_path / "run"
        ended = faulty("train-student", "--shards", cache, "--out", run, *TINY, **refuses(name, "targets/c/1"))
        assert ended.code == 1
        is_about_access(ended.sentence, name, "seed-0000/targets/c/1")

    def test_training_goes_on_where_the_refusal_stopped_it(
        self, faulty: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path
    ) -> None:
        cache, run = training_cache(), tmp_path / "run"
        arguments = ("train-student", "--shards", cache, "--out", run, *TINY, "--workers=0")
        stopped = faulty(*arguments, **refuses("ESTALE", "seed-0001/targets/c/0"))
        is_about_access(stopped.sentence, "ESTALE", "mount it again")
        assert list((run / "checkpoints").iterdir()), "the steps before it are kept"
        assert faulty(*arguments).code == 0

    @pytest.mark.parametrize("name", ["EIO", pytest.param("ENOTCONN", marks=pytest.mark.slow)])
    def test_bytes_of_an_object(
        self, faulty: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path, name: str
    ) -> None:
        cache, run = training_cache(), tmp_path / "run"
        faults = refuses(name, "targets/c/1", call="READ")
        is_about_access(faulty("train-student", "--shards", cache, "--out", run, *TINY, **faults).sentence, name)
        converted = faulty("feature-cache", "convert", cache, tmp_path / "other", "--precision=int2", **faults)
        is_about_access(converted.sentence, name, "targets/c/1")

    @pytest.mark.parametrize("part", ["manifest.json", "receipts/seed-0000/shard-00001.json"])
    @pytest.mark.parametrize("command", ["train-student", "convert"])
    def test_a_document(
        self, faulty: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path, part: str, command: str
    ) -> None:
        cache = training_cache()
        arguments = (
            (command, "--shards", cache, "--out", tmp_path / "run", *TINY)
            if command == "train-student"
            else ("feature-cache", command, cache, tmp_path / "other")
        )
        ended = faulty(*arguments, **refuses("EACCES", part))
        assert ended.code == 1
        is_about_access(ended.sentence, "EACCES", part, "permissions")

    def test_a_checkpoint(
        self, faulty: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path
    ) -> None:
        arguments = ("train-student", "--shards", training_cache(), "--out", tmp_path / "run", *TINY)
        assert faulty(*arguments, "--max-steps=2").code == 0
        is_about_access(
            faulty(*arguments, **refuses("ESTALE", "checkpoints/step")).sentence, "ESTALE", "step-000000002"
        )

    def test_show(self, faulty: Callable[..., Any], training_cache: Callable[..., Path]) -> None:
        cache = training_cache()
        ended = faulty("feature-cache", "show", cache, **refuses("EIO", "receipts/seed-0000/shard-00001.json"))
        assert ended.code == 0
        assert "1 receipts cannot be read, so their shards are not counted" in ended.out
        is_about_access(ended.out.splitlines()[-1], "EIO", "dmesg")


class TestVerify:
    @pytest.mark.parametrize(
        "part",
        ["manifest.json", "zarr.json", "receipts/seed-0000/shard-00001.json", "targets/c/1"],
    )
    def test_what_cannot_be_read_is_a_kind_of_its_own(
        self, faulty: Callable[..., Any], training_cache: Callable[..., Path], part: str
    ) -> None:
        cache = training_cache()
        ended = faulty("feature-cache", "verify", cache, "--full", "--json", **refuses("ESTALE", part))
        report = json.loads(ended.out)
        assert (ended.code, report["damaged"], report["whole"]) == (3, 0, False)
        assert report["not_readable"] == len(report["findings"]) > 0
        for finding in report["findings"]:
            assert (finding["kind"], part in finding["path"]) == ("not readable", True)
            is_about_access(f"{finding['problem']}; {finding['advice']}", "ESTALE")

    def test_bytes_that_cannot_be_read(self, faulty: Callable[..., Any], training_cache: Callable[..., Path]) -> None:
        cache = training_cache()
        faults = refuses("EIO", "targets/c/1", call="READ")
        ended = faulty("feature-cache", "verify", cache, "--full", **faults)
        assert ended.code == 3
        assert "2 files not readable, which may be sound" in ended.out
        assert faulty("feature-cache", "verify", cache, **faults).code == 0, "quick checks read no bytes"

    def test_damage_goes_before(self, faulty: Callable[..., Any], training_cache: Callable[..., Path]) -> None:
        cache = training_cache()
        next(path for path in (cache / "seed-0000" / "importance" / "c").rglob("*") if path.is_file()).write_bytes(b"")
        ended = faulty("feature-cache", "verify", cache, **refuses("EACCES", "targets/c/1"))
        assert ended.code == 1
        assert "2 files not readable, which may be sound" in ended.out


class TestExtraction:
    def test_resuming_leaves_alone_what_it_cannot_read(
        self,
        faulty: Callable[..., Any],
        whole_cache: Path,
        tiny_arguments: Callable[..., list[Any]],
        files: Callable[[Path], dict[str, str]],
        tmp_path: Path,
    ) -> None:
        root = tmp_path / "cache"
        shutil.copytree(whole_cache, root)
        before = files(root)
        for name in ("EACCES", "ESTALE"):
            ended = faulty("extract-features", *tiny_arguments(root), **refuses(name, "shard-00002.json"))
            is_about_access(ended.sentence, name, "shard-00002.json")
            assert files(root) == before

    @pytest.mark.parametrize("part", ["seed-0000/targets/c/2", "manifest.json", "receipts/seed-0000/shard-00002"])
    def test_reuse(
        self,
        faulty: Callable[..., Any],
        whole_cache: Path,
        tiny_arguments: Callable[..., list[Any]],
        tmp_path: Path,
        part: str,
    ) -> None:
        arguments = tiny_arguments(tmp_path / "new", reuse=whole_cache, seeds="0", images=None)
        ended = faulty("extract-features", *arguments, **refuses("ENOTCONN", str(whole_cache / part)))
        is_about_access(ended.sentence, "ENOTCONN", part)


class TestWithoutMaps:
    @pytest.mark.parametrize(("container", "name"), UNMAPPED)
    def test_everything_is_read_instead(
        self, faulty: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path, name: str, container: str
    ) -> None:
        cache = training_cache(container=container)
        faults = unmapped(name, cache)
        for run, given in (("mapped", {}), ("read", faults)):
            arguments = ("--shards", cache, "--out", tmp_path / run, *TINY, "--readahead=advice")
            ended = faulty("train-student", *arguments, **given)
            assert ended.code == 0, ended.err
            assert ended.err.count("does not map files into memory") == bool(given)
            assert f"({name})" in ended.err or not given
        read, mapped = ((tmp_path / run / "student.safetensors").read_bytes() for run in ("read", "mapped"))
        assert read == mapped
        if name == "ENODEV":
            assert faulty("feature-cache", "verify", cache, "--full", **faults).code == 0
            assert faulty("feature-cache", "convert", cache, tmp_path / "new", **faults).code == 0


class TestWithoutLocks:
    @pytest.mark.parametrize("name", LOCKLESS)
    def test_writing_commands_go_on_and_say_so(
        self, faulty: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path, name: str
    ) -> None:
        lockless = {"FLOCK_ERRNO": str(getattr(errno, name))}
        run = tmp_path / "run"
        ended = faulty("train-student", "--shards", training_cache(), "--out", run, *TINY, **lockless)
        assert ended.code == 0, ended.err
        assert "its file system has no locks" in ended.err
        assert not (run / ".lock-holder").exists()

    def test_a_second_writer_is_kept_out(
        self, faulty_forks: Any, faulty: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path
    ) -> None:
        lockless, run = {"FLOCK_ERRNO": str(errno.ENOLCK)}, tmp_path / "run"
        arguments = ["--shards", training_cache(), "--out", run, *TINY, "--epochs=100000"]
        first = faulty_forks.start(arguments, command="train-student", **lockless)
        first.until(lambda: (run / "metrics.jsonl").exists())
        second = faulty("train-student", *arguments, **lockless)
        assert "another train-student is writing to this run" in second.sentence
        first.kill_tree()
        assert (run / ".lock-holder").exists()
        third = faulty("train-student", *arguments, "--max-steps=1", **lockless)
        assert third.code == 0, "the lock of a dead process of this machine holds nobody up"
