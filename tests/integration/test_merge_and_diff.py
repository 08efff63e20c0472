"""Merging caches of one recipe, and comparing caches: what two machines made becomes one, and differences are told."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.compare.difference import compare_caches
from lookonce.cache.convert.conversion import convert_cache
from lookonce.cache.convert.request import ConversionRequest
from lookonce.cache.layout import CacheLayout
from lookonce.cache.merge import merging
from lookonce.cache.merge.merging import merge_caches
from lookonce.cache.verify.verification import verify_cache
from lookonce.commands.feature_cache import main
from lookonce.shared.errors import CacheError, IntegrityError, RecipeMismatchError, StorageError, UsageError

from .conftest import files_of

CONTAINERS = ("zarr", "webdataset")


@pytest.fixture
def make_cache(make_manifest: Any, fill_cache: Any, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, seeds: tuple[int, ...] = (0, 1), holes: tuple[int, ...] = (), **changes: Any) -> Path:
        manifest = make_manifest(**changes)
        images = sorted(range(manifest.samples), key=lambda image: (image % 2, image))  # keys ascend, as in listings
        fill_cache(tmp_path / name, manifest, seeds=seeds, holes=holes, images=images)
        return tmp_path / name

    return make


def drop(root: Path, *shards: tuple[int, int]) -> None:
    """Take away receipts, as of a machine that has not extracted these shards."""
    for seed, shard in shards:
        CacheLayout(root).receipt_file(seed, shard).unlink()


def content(root: Path) -> dict[str, str]:
    return {name: digest for name, digest in files_of(root).items() if not name.startswith((".lock", "pins/"))}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("precision", ["int8", "klt1"])
def test_parts_of_a_cache_become_the_whole(
    make_cache: Callable[..., Path], tmp_path: Path, container: str, precision: str
) -> None:
    whole = make_cache("whole", seeds=(0, 1, 2), container=container, precision=precision)
    one, other = (shutil.copytree(whole, tmp_path / name) for name in ("one", "other"))
    drop(one, (1, 0), (1, 2), (2, 0), (2, 1), (2, 2))
    drop(other, (0, 0), (0, 1), (0, 2), (1, 1))
    summary = merge_caches([one, other], tmp_path / "out", workers=2)
    assert summary.seeds == {0: 3, 1: 3, 2: 3}
    assert (summary.shards, summary.twice) == ({str(one): 4, str(other): 5}, 0)
    assert verify_cache(tmp_path / "out", full=True).exit_code == 0
    assert content(tmp_path / "out") == content(whole)
    again = merge_caches([one, other], tmp_path / "out")
    assert sum(again.shards.values()) == 0


def test_what_several_caches_have_is_taken_with_the_fewest_holes(
    make_cache: Callable[..., Path], tmp_path: Path
) -> None:
    holes, sound, same = make_cache("holes", holes=(1,)), make_cache("sound"), make_cache("same")
    summary = merge_caches([holes, sound, same], tmp_path / "out")
    assert (summary.twice, summary.different) == (6, 2)
    assert summary.shards == {str(holes): 4, str(sound): 2, str(same): 0}
    assert verify_cache(tmp_path / "out", full=True).exit_code == 0
    assert "6 shards were in several caches, 2 of them with other bytes" in summary.text()


def test_a_cache_is_completed_in_place_by_others(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    whole = make_cache("whole", seeds=(0, 1))
    out, one, other = (shutil.copytree(whole, tmp_path / name) for name in ("out", "one", "other"))
    drop(out, (0, 1), (1, 2))
    drop(one, (0, 1))
    drop(other, (1, 2))
    assert sum(merge_caches([one, other], out).shards.values()) == 2
    assert content(out) == content(whole)


def test_caches_of_another_kind_are_refused_and_nothing_is_written(
    make_cache: Callable[..., Path], tmp_path: Path
) -> None:
    one = make_cache("one", precision="fp16")
    for name, changes, error, sentence in (
        ("view", {"view_size": 64, "precision": "fp16"}, RecipeMismatchError, "view.size"),
        ("format", {"container": "webdataset", "precision": "fp16"}, CacheError, "another container"),
        (
            "shards",
            {"shard_size": 3, "precision": "fp16"},
            CacheError,
            r"another shard size .* \(3, the other",
        ),
        ("bits", {"precision": "int8"}, CacheError, r"another precision than .* \(int8, the other one has fp16\)"),
        ("pixels", {"store_pixels": False, "precision": "fp16"}, CacheError, "another arrays"),
    ):
        with pytest.raises(error, match=sentence):
            merge_caches([one, make_cache(name, **changes)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for sources, out, sentence in (
        ([one], tmp_path / "out", "at least two caches, found 1"),
        ([one, one], one, "cannot be merged into one of them"),
        ([one, one], one / "in", "cannot be merged into one of them"),
    ):
        with pytest.raises(UsageError, match=sentence):
            merge_caches(sources, out)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "text").touch()
    with pytest.raises(CacheError, match="notes"):
        merge_caches([one, one], tmp_path / "notes")


def test_damage_in_a_source_is_not_copied(
    make_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make_cache("one"), make_cache("other", seeds=(2,))
    stored = CacheLayout(one).load_receipt(1, 1).objects[0]
    content_before = (one / stored.path).read_bytes()
    (one / stored.path).write_bytes(bytes([content_before[0] ^ 1]) + content_before[1:])
    with pytest.raises(IntegrityError, match=rf"{one / stored.path} .*: its digest is"):
        merge_caches([one, other], tmp_path / "out")
    assert not CacheLayout(tmp_path / "out").receipt_file(1, 1).exists()
    assert {one.path.split("/")[0] for one in verify_cache(tmp_path / "out", full=True).findings} == {"receipts"}
    (one / stored.path).write_bytes(content_before)
    monkeypatch.setattr(merging.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match=r"the shards to copy take .* and 0 B are free there"):
        merge_caches([one, other], tmp_path / "out")
    monkeypatch.undo()
    assert sum(merge_caches([one, other], tmp_path / "out").shards.values()) > 0
    assert verify_cache(tmp_path / "out", full=True).exit_code == 0


MERGER = """
import os, sys
from pathlib import Path
from lookonce.cache.merge.merging import merge_caches
for line in sys.stdin:
    one, other, out = map(Path, line.split())
    child = os.fork()
    if child == 0:
        merge_caches([one, other], out)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
"""


def test_a_killed_merge_resumes(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    sizes = {"samples": 24, "shard_size": 2}
    one, other = make_cache("one", seeds=(0,), **sizes), make_cache("other", seeds=(1,), **sizes)
    chance = random.Random(0)
    command, stopped = [sys.executable, "-c", MERGER], 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as merger:
        assert merger.stdin is not None
        assert merger.stdout is not None
        longest = 0.0
        for number in range(10):
            out = tmp_path / f"out{number}"
            print(one, other, out, file=merger.stdin, flush=True)
            child, started = int(merger.stdout.readline()), time.monotonic()
            if number:  # the first one tells how long a merge takes here
                time.sleep(chance.random() * longest)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            while Path(f"/proc/{child}").exists():
                time.sleep(0.001)
            longest = longest or time.monotonic() - started
            if (out / "manifest.json").exists():
                findings = verify_cache(out, full=True).findings
                # what is missing: shards, and the documents of a seed that was just begun
                assert all(
                    finding.path.startswith("receipts/") or finding.path.endswith("zarr.json") for finding in findings
                )
            stopped += sum(merge_caches([one, other], out).shards.values()) not in (0, 24)
            assert content(out) == content(tmp_path / "out0")
        merger.stdin.close()
    assert stopped


def test_machines_that_share_a_manifest_make_parts_of_one_cache(
    extract_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    assert extract_tiny(tmp_path / "one", seeds="0").code == 0
    assert extract_tiny(tmp_path / "alone", seeds="1").code == 0
    with pytest.raises(CacheError, match=r"another calibration .* copy its manifest.json and encoding/"):
        merge_caches([tmp_path / "one", tmp_path / "alone"], tmp_path / "out")
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "one" / "manifest.json", tmp_path / "other")
    assert extract_tiny(tmp_path / "other", seeds="1").code == 0
    assert merge_caches([tmp_path / "one", tmp_path / "other"], tmp_path / "out").seeds == {0: 6, 1: 6}
    assert extract_tiny(tmp_path / "whole", seeds="0-1").code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_equal_caches_are_the_same_in_any_container(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    one = make_cache("one")
    convert_cache(one, tmp_path / "tars", ConversionRequest(container="webdataset", shard_size=3))
    found = compare_caches(one, tmp_path / "tars")
    assert (found.same, found.exit_code) == (True, 0)
    assert found.storage == {"container": ("zarr", "webdataset"), "shard size": (2, 3)}
    assert found.values is not None
    assert (found.values.views, found.values.blocks) == (10, (3, 4))
    assert found.text().endswith("values: equal in 10 views")


def test_the_size_of_a_difference_is_told(make_cache: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    exact = make_cache("exact", precision="fp16", layers=3)
    convert_cache(exact, tmp_path / "int4", ConversionRequest(precision="int4"))
    found = compare_caches(exact, tmp_path / "int4", views=6)
    assert not found.same
    assert found.storage["precision"] == ("fp16", "int4")
    values = found.values
    assert values is not None
    assert values.same_pixels == 1.0
    assert values.importance == 0
    assert all(0.01 < error < 0.3 for error in values.relative_error.values())
    assert values.largest > 0
    for flags, code in (([str(exact), str(exact)], 0), ([str(exact), str(tmp_path / "int4"), "--json"], 1)):
        with pytest.raises(SystemExit) as ended:
            main(["diff", *flags])
        assert (ended.value.code or 0) == code
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["same"] is False
    assert document["storage"]["precision"] == ["fp16", "int4"]


def test_caches_that_cannot_be_compared_value_by_value_say_why(make_cache: Callable[..., Path]) -> None:
    one = make_cache("one", seeds=(0, 1))
    for name, changes, reason in (
        ("seeds", {"seeds": (2,)}, "no complete seed in common"),
        ("width", {"width": 8}, "different numbers of channels"),
        ("size", {"view_size": 64}, "different patches"),
    ):
        found = compare_caches(one, make_cache(name, **changes))
        assert found.values is None
        assert reason in found.text()
        assert not found.same
    assert compare_caches(one, make_cache("size2", view_size=64)).recipe["view.size"] == (32, 64)
    more = compare_caches(one, make_cache("more", seeds=(1, 2)))
    assert more.seeds == ((0,), (2,))
    assert not more.same


def test_a_change_of_one_value_is_found(make_manifest: Any, fill_cache: Any, tmp_path: Path) -> None:
    shape = (5, *make_manifest(precision="fp16").array("targets").sample_shape)

    def changed(manifest: Any, seed: int) -> dict[str, Any]:
        values = np.random.default_rng(seed).standard_normal(shape).astype(np.float16)
        return {"targets": values}

    fill_cache(tmp_path / "a", make_manifest(precision="fp16"), make_arrays=changed)

    def by_one(manifest: Any, seed: int) -> dict[str, Any]:
        values = changed(manifest, seed)["targets"]
        values[2, 1, 0, 3] += 1
        return {"targets": values}

    fill_cache(tmp_path / "b", make_manifest(precision="fp16"), make_arrays=by_one)
    found = compare_caches(tmp_path / "a", tmp_path / "b")
    assert found.values is not None
    assert found.values.largest == pytest.approx(1, abs=0.01)
    assert found.values.relative_error[4] == 0 < found.values.relative_error[3]
    assert compare_caches(tmp_path / "a", tmp_path / "a").same
