"""The catalogue: caches are entered, found, pinned and deleted, also by many processes and against odds."""

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
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lookonce.cache.layout import CacheLayout
from lookonce.cache.verify.verification import verify_cache
from lookonce.cache.write.create import exclusive_writer
from lookonce.catalogue import pins
from lookonce.catalogue.catalogue import Catalogue, enter_cache
from lookonce.catalogue.clean_up import clean_up
from lookonce.catalogue.entry import CatalogueEntry
from lookonce.catalogue.pins import held_pins, pin_cache, pinned, unpin_cache
from lookonce.catalogue.query import CacheQuery
from lookonce.catalogue.removal import REMOVED_MARK, left_over, remove_cache, remove_seeds
from lookonce.commands.feature_cache import main
from lookonce.extract.teachers.table import TEACHERS, recipe_name, resolve_teacher
from lookonce.shared.errors import BusyError, CacheError, StorageError, UsageError


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.setenv("LOOKONCE_CATALOGUE", str(tmp_path / "catalogue"))
    return Catalogue(tmp_path / "catalogue")


@pytest.fixture
def make_cache(make_manifest: Any, fill_cache: Any, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "c", seeds: tuple[int, ...] = (0, 1), **changes: Any) -> Path:
        fill_cache(tmp_path / name, make_manifest(**changes), seeds=seeds)
        return tmp_path / name

    return make


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run feature-cache in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return call


def aged(catalogue: Catalogue, root: Path, days: int) -> None:
    """Set the last use of a cache back."""
    then = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for entry in list(catalogue.entries()):
        if entry.place == str(root):
            catalogue._file(entry).write_text(json.dumps(replace(entry, used_at=then).document()))
    folder = root / "pins"
    if folder.exists():
        os.utime(folder, (time.time() - days * 86400,) * 2)


def test_an_entry_says_what_the_cache_is(catalogue: Catalogue, make_cache: Callable[..., Path]) -> None:
    root = make_cache(seeds=(0, 3))
    CacheLayout(root).receipt_file(3, 1).unlink()
    enter_cache(root)
    (entry,) = catalogue.entries()
    manifest = CacheLayout(root).load_manifest()
    assert (entry.place, entry.name, entry.fingerprint) == (str(root), "c", manifest.recipe.fingerprint)
    assert (entry.teacher, entry.view_size, entry.precision, entry.samples) == ("timm:tiny", 32, "int8", 5)
    assert (entry.seeds, entry.complete_seeds, entry.complete) == ({0: 3, 3: 2}, (0,), False)
    assert entry.bytes == sum(
        CacheLayout(root).load_receipt(seed, shard).content_bytes
        for seed, shard in ((0, 0), (0, 1), (0, 2), (3, 0), (3, 2))
    )
    assert entry.state() == "present"
    assert CatalogueEntry.from_document(json.loads(json.dumps(entry.document())), "x") == entry


def test_a_later_entry_keeps_the_first_date_and_another_recipe_is_another_entry(
    catalogue: Catalogue, make_cache: Callable[..., Path]
) -> None:
    root = make_cache()
    first = replace(catalogue.enter(root), made_at="2020-01-01T00:00:00Z", user="ann")
    catalogue._file(first).write_text(json.dumps(first.document()))
    again = catalogue.enter(root, changed=False)
    assert (again.made_at, again.user, again.changed_at) == (first.made_at, "ann", first.changed_at)
    shutil.rmtree(root)
    make_cache(view_size=64)
    catalogue.enter(root)
    assert sorted(one.state() for one in catalogue.entries()) == ["present", "replaced"]


def test_list_and_find_choose_by_every_condition(
    catalogue: Catalogue, make_cache: Callable[..., Path], run: Callable[..., tuple[int, str, str]]
) -> None:
    small, large = make_cache("small", seeds=(0,)), make_cache("large", seeds=(0, 1, 2), view_size=64, precision="int4")
    for root in (small, large):
        enter_cache(root)
    code, out, err = run("list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["name", "small", "large", "2"]
    assert "0-2" in out
    for flags, found in (
        (("--view-size", 64), [large]),
        (("--min-seeds", 2), [large]),
        (("--precision", "int8"), [small]),
        (("--name", "small"), [small]),
        (("--fingerprint", CacheLayout(large).load_manifest().recipe.fingerprint[:17]), [large]),
        (("--teacher", "clip-b16"), []),
        (("--complete",), [large, small]),
    ):
        code, out, _ = run("find", *flags)
        assert (code, out.split()) == (int(not found), [str(root) for root in found])
    shutil.rmtree(small)
    assert "GONE" in run("list")[1]
    assert run("find")[1].split() == [str(large)]
    documents = json.loads(run("list", "--json")[1])["caches"]
    assert {one["name"]: one["state"] for one in documents} == {"small": "gone", "large": "present"}


def test_a_name_or_fingerprint_stands_for_a_path(
    catalogue: Catalogue,
    make_cache: Callable[..., Path],
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = make_cache("a/clip"), make_cache("b/dino", view_size=64)
    for root in (one, other):
        enter_cache(root)
    monkeypatch.chdir(tmp_path / "catalogue")
    code, out, err = run("verify", "clip")
    assert (code, err) == (0, f"clip: {one}, by the catalogue\n")
    assert out.startswith(str(one))
    digits = CacheLayout(other).load_manifest().recipe.fingerprint.removeprefix("sha256:")[:8]
    assert run("show", digits)[1].startswith(f"cache        {other}")
    enter_cache(make_cache("c/clip"))
    code, _, err = run("verify", "clip")
    assert code == 2
    assert "2 caches of the catalogue are called so" in err
    code, _, err = run("verify", "absent")
    assert (code, err.count("\n")) == (2, 1)
    assert "neither a cache folder nor a name or fingerprint in the catalogue" in err
    shutil.rmtree(other)
    assert f"has it at {other}, where it is gone" in run("verify", "dino")[2]
    (tmp_path / "catalogue" / "dino").mkdir()  # a folder comes before a name
    assert "no manifest.json here" in run("show", "dino")[2]


def test_teachers_are_found_by_their_names_in_recipes() -> None:
    assert {name: recipe_name(name) for name in TEACHERS} == {name: resolve_teacher(name).name for name in TEACHERS}


def test_files_that_are_no_entries_are_told_and_left(
    catalogue: Catalogue, make_cache: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    enter_cache(make_cache())
    strange = {"half.json": "{", "later.json": '{"version": 99}', "list.json": "[]", "short.json": '{"version": 1}'}
    for name, text in strange.items():
        (catalogue.folder / "entries" / name).write_text(text)
    (entry,) = catalogue.entries()
    document = {**entry.document(), "bytes": "many"}
    strange["typed.json"] = json.dumps(document)
    (catalogue.folder / "entries" / "typed.json").write_text(strange["typed.json"])
    capsys.readouterr()
    assert len(list(catalogue.entries())) == 1
    assert sorted(line.split("/")[-1].split(":")[0] for line in capsys.readouterr().err.splitlines()) == sorted(strange)
    assert all((catalogue.folder / "entries" / name).exists() for name in strange)


def test_trouble_with_the_catalogue_stops_nothing(
    make_cache: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Callable[..., tuple[int, str, str]],
) -> None:
    root = make_cache()
    (tmp_path / "file").touch()
    for folder, sentence in (
        (str(tmp_path / "file"), "Not a directory (ENOTDIR)"),
        ("s3://bucket/catalogue", "is a URL"),
        ("relative", "expected an absolute path"),
    ):
        monkeypatch.setenv("LOOKONCE_CATALOGUE", folder)
        enter_cache(root)
        told = capsys.readouterr().err
        assert told.startswith(f"note: {root} is not entered in the catalogue: ")
        assert sentence in told
        assert run("list")[0] in (1, 2)
    monkeypatch.setenv("LOOKONCE_CATALOGUE", "none")
    enter_cache(root)
    assert capsys.readouterr().err == ""
    assert "LOOKONCE_CATALOGUE is none" in run("list")[2]


def test_the_catalogue_of_a_user_is_in_the_data_folder(
    make_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOOKONCE_CATALOGUE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    enter_cache(make_cache())
    assert len(list((tmp_path / "data/lookonce/catalogue/entries").iterdir())) == 1
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    enter_cache(make_cache())
    assert len(list((tmp_path / "home/.local/share/lookonce/catalogue/entries").iterdir())) == 1


def test_pins_of_people_hold_until_their_day(make_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_cache()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    pin_cache(root, "ann", tomorrow)
    pin_cache(root, "bob")
    assert [str(pin) for pin in held_pins(root)] == [f"ann until {tomorrow}", "bob"]
    with pytest.raises(BusyError, match=f"is pinned by ann until {tomorrow}, bob"):
        remove_cache(root)
    unpin_cache(root, "bob")
    with pytest.raises(UsageError, match="no pin of bob; found ann"):
        unpin_cache(root, "bob")
    document = json.loads((root / "pins/ann.json").read_text())
    (root / "pins/ann.json").write_text(json.dumps({**document, "until": "2020-01-01"}))
    assert held_pins(root) == []
    for by, until in (("a b", None), ("../x", None), ("", None), ("ann", "1.2.2030"), ("ann", "2020-01-01")):
        with pytest.raises(UsageError):
            pin_cache(root, by, until)
    (root / "pins/strange.json").write_text("{")
    assert [str(pin) for pin in held_pins(root)] == ["strange.json, which cannot be read"]
    assert verify_cache(root, full=True).exit_code == 0  # pins are no part of the content


def test_the_pin_of_a_run_holds_while_it_lives(
    make_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_cache()
    with pinned([root], "training run r"):
        (pin,) = held_pins(root)
        assert str(pin) == f"training run r (process {os.getpid()} on {os.uname().nodename})"
        with pytest.raises(BusyError, match="is pinned by training run r"):
            remove_cache(root)
        document = json.loads(pin.file.read_text())
        for place, age, holds in (
            ("another machine", 0, True),  # nobody here can ask whether it lives
            ("another machine", 2 * pins.LOST_AFTER, False),
            (document["process"]["place"], 2 * pins.LOST_AFTER, True),
        ):
            pin.file.write_text(json.dumps({**document, "process": {**document["process"], "place": place}}))
            os.utime(pin.file, (time.time() - age,) * 2)
            assert bool(held_pins(root)) == holds
        monkeypatch.setattr(pins, "RENEWED_EVERY", 0.0)
    assert held_pins(root) == []
    monkeypatch.setattr(pins, "RENEWED_EVERY", 0.01)
    with pinned([root], "r"):
        (pin,) = held_pins(root)
        os.utime(pin.file, (0, 0))
        deadline = time.monotonic() + 10
        while pin.file.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_pin_of_a_killed_run_does_not_hold(make_cache: Callable[..., Path]) -> None:
    root = make_cache()
    program = (
        "import sys, time; from pathlib import Path; from lookonce.catalogue.pins import pinned\n"
        "with pinned([Path(sys.argv[1])], 'run'): print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(BusyError, match="is pinned by run"):
            remove_cache(root)
        process.kill()
    assert len(list((root / "pins").iterdir())) == 1
    assert held_pins(root) == []
    remove_cache(root)
    assert not root.exists()


def test_a_cache_that_cannot_be_written_is_read_without_a_pin(
    make_cache: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_cache()
    (root / "pins").touch()  # a folder that cannot be made, also for root
    with pinned([root], "run"):
        pass
    assert capsys.readouterr().err.startswith(f"note: {root} is not pinned while it is read: ")


def test_removal_deletes_the_whole_cache_or_some_seeds(
    catalogue: Catalogue, make_cache: Callable[..., Path], run: Callable[..., tuple[int, str, str]]
) -> None:
    root = make_cache(seeds=(0, 1, 2))
    enter_cache(root)
    with pytest.raises(UsageError, match="has no seed 7; it has 0, 1, 2"):
        remove_seeds(root, (7,))
    with pytest.raises(UsageError, match="leave --seeds out"):
        remove_seeds(root, (0, 1, 2))
    with exclusive_writer(root), pytest.raises(BusyError, match="is writing to this cache"):
        remove_seeds(root, (1,))
    with exclusive_writer(root), pytest.raises(BusyError, match="is writing to this cache"):
        remove_cache(root)
    code, out, _ = run("rm", root, "--seeds", "1-2")
    assert (code, out.startswith(f"{root}, seeds 1, 2: deleted")) == (0, True)
    assert CacheLayout(root).seeds() == (0,)
    assert verify_cache(root, full=True).exit_code == 0
    assert next(iter(catalogue.entries())).seeds == {0: 3}
    assert run("rm", root)[0] == 0
    assert not root.exists()
    assert list(catalogue.entries()) == []
    with pytest.raises(CacheError, match="does not exist"):
        remove_cache(root)
    (root.parent / "other").mkdir()
    with pytest.raises(CacheError, match="not a lookonce cache"):
        remove_cache(root.parent / "other")
    assert (root.parent / "other").exists()


def test_a_link_to_a_cache_is_not_followed(
    catalogue: Catalogue, make_cache: Callable[..., Path], tmp_path: Path
) -> None:
    root, link = make_cache(), tmp_path / "link"
    link.symlink_to(root)
    enter_cache(link)
    aged(catalogue, link, 40)
    with pytest.raises(UsageError, match=f"{link}: is a symbolic link to the cache {root}; nothing was deleted"):
        remove_cache(link)
    summary = clean_up(catalogue, CacheQuery(unused_for=timedelta(days=30)), delete=True)
    assert "symbolic link" in str(summary.lines[0].failure)
    assert link.is_symlink()
    assert verify_cache(root, full=True).exit_code == 0


def test_other_files_in_the_folder_are_not_lost(make_cache: Callable[..., Path]) -> None:
    root = make_cache(precision="klt1")
    (root / "notes.txt").write_text("mine")
    (root / "nested").mkdir()
    with pytest.raises(UsageError, match=r"contains nested, notes\.txt, which is no part of the cache"):
        remove_cache(root)
    assert (root / "notes.txt").read_text() == "mine"
    assert (root / "manifest.json").exists()
    (root / "notes.txt").unlink()
    (root / "nested").rmdir()
    with pinned([root], "run"):
        pass
    remove_cache(root)
    assert not root.exists()


def test_a_run_that_pins_during_the_removal_keeps_its_cache(
    make_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookonce.catalogue import removal

    root, rename = make_cache(), removal._rename

    def pinning_rename(source: Path, target: Path) -> None:
        if source == root:
            pin_cache(root, "late")
        rename(source, target)

    monkeypatch.setattr(removal, "_rename", pinning_rename)
    with pytest.raises(BusyError, match=f"{root}: is pinned by late"):
        remove_cache(root)
    assert verify_cache(root, full=True).exit_code == 0
    assert left_over(root) == []


def test_clean_up_keeps_what_is_needed_and_says_why(
    catalogue: Catalogue, make_cache: Callable[..., Path], run: Callable[..., tuple[int, str, str]]
) -> None:
    roots = {name: make_cache(name) for name in ("old", "recent", "pinned", "written", "gone", "other")}
    pin_cache(roots["pinned"], "ann")
    for root in roots.values():
        enter_cache(root)
        aged(catalogue, root, 0 if root.name == "recent" else 40)
    shutil.rmtree(roots["gone"])
    left = roots["old"].with_name(f".old{REMOVED_MARK}0123")
    left.mkdir()
    (left / "object").write_bytes(b"x" * 1000)
    with exclusive_writer(roots["written"]):
        before = sorted(str(path) for path in roots["old"].parent.rglob("*"))
        code, out, _ = run("gc", "--older-than", "30d", "--name", "old")
        assert (code, "would be freed" in out) == (0, True)
        run("gc", "--dry-run")
        assert sorted(str(path) for path in roots["old"].parent.rglob("*")) == before
        code, out, _ = run("gc", "--delete", "--json")
        assert code == 1
    lines = {Path(line["cache"]).name: line for line in json.loads(out)["caches"]}
    assert {name: line["delete"] for name, line in lines.items()} == {
        left.name: True,
        "old": True,
        "other": True,
        "pinned": False,
        "recent": False,
        "written": True,
    }
    assert lines["pinned"]["reason"] == "pinned by ann"
    assert "is writing to this cache" in lines["written"]["failure"]
    assert {name for name, root in roots.items() if root.exists()} == {"recent", "pinned", "written"}
    assert not left.exists()
    assert {entry.name for entry in catalogue.entries()} == {"recent", "pinned", "written"}
    for flags in (("--older-than", "soon"), ("--delete", "--dry-run"), ("--precision", "int3")):
        assert run("gc", *flags)[0] == 2


def test_use_by_people_with_another_catalogue_counts(catalogue: Catalogue, make_cache: Callable[..., Path]) -> None:
    root = make_cache()
    enter_cache(root)
    aged(catalogue, root, 40)
    with pinned([root], "a run of somebody else"):
        pass
    query = CacheQuery(unused_for=timedelta(days=30))
    assert not clean_up(catalogue, query, delete=True).lines[0].delete
    aged(catalogue, root, 40)
    assert clean_up(catalogue, query, delete=True).lines[0].delete
    assert not root.exists()


def test_many_processes_enter_caches_at_once(catalogue: Catalogue, make_cache: Callable[..., Path]) -> None:
    roots = [make_cache(f"c{number}") for number in range(3)]
    program = (
        "import sys; from pathlib import Path; from lookonce.catalogue.catalogue import enter_cache\n"
        "for _ in range(8):\n  for root in sys.argv[1:]: enter_cache(Path(root))"
    )
    command = [sys.executable, "-c", program, *map(str, roots)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    seen: set[str] = set()
    while any(process.poll() is None for process in running):
        seen |= {entry.name for entry in catalogue.entries()}
    assert [process.communicate()[1] for process in running] == [b""] * 2
    assert {entry.name for entry in catalogue.entries()} == seen == {"c0", "c1", "c2"}


REMOVER = """
import os, sys
from pathlib import Path
from lookonce.catalogue.removal import remove_cache, remove_seeds
for line in sys.stdin:
    root, what = line.split()
    child = os.fork()
    if child == 0:
        remove_cache(Path(root)) if what == "all" else remove_seeds(Path(root), [1])
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
"""
"""Removes the caches that it is told, each in a process of its own whose number it prints."""


@pytest.mark.parametrize("rounds", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_removal_leaves_no_cache_that_looks_whole(
    catalogue: Catalogue, make_cache: Callable[..., Path], tmp_path: Path, rounds: int
) -> None:
    """A removal is killed at a random time; what is left is a sound cache, or none, and gc finishes it."""
    chance, model, found = random.Random(0), make_cache("model", samples=40, shard_size=4), set[str]()
    command = [sys.executable, "-c", REMOVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as remover:
        assert remover.stdin is not None
        assert remover.stdout is not None
        longest = 0.0  # the first removals end by themselves, and tell how long one takes here
        for number in range(10 * rounds):
            if number >= rounds + 2 and "stopped" in found:
                break  # on some machines few kills come in time
            root, what = tmp_path / f"c{number}", chance.choice(["all", "seeds"])
            shutil.copytree(model, root)
            enter_cache(root)
            print(root, what, file=remover.stdin, flush=True)
            child, started = int(remover.stdout.readline()), time.monotonic()
            if number >= 2:
                time.sleep(chance.random() * longest)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            while Path(f"/proc/{child}").exists():
                time.sleep(0.001)
            longest = max(longest, time.monotonic() - started) if number < 2 else longest
            if (root / "manifest.json").exists():
                # a seed that lost its receipts, and not yet its folder, is an incomplete one
                findings = verify_cache(root, full=True).findings
                assert all("receipt: it does not count" in str(finding) for finding in findings), findings
                assert CacheLayout(root).complete_seeds(10) in ((0, 1), (0,))
            else:
                assert not root.exists()
            left = [path.name for path in (*left_over(root), *root.glob(f"*{REMOVED_MARK}*"))]
            found.add("stopped" if left else "whole" if root.exists() else "gone")
            aged(catalogue, root, 40)
            assert clean_up(catalogue, CacheQuery(unused_for=timedelta(days=30)), delete=True).exit_code == 0
            assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "model"]
        remover.stdin.close()
    assert "stopped" in found  # otherwise no kill came in time


def test_ten_thousand_entries_are_listed_in_a_second_of_cpu(
    catalogue: Catalogue, make_cache: Callable[..., Path]
) -> None:
    root = make_cache()
    entry = catalogue.enter(root)
    for number in range(10_000):
        copy = replace(entry, place=f"{root.parent}/absent/{number}", name=f"c{number}")
        catalogue._file(copy).write_text(json.dumps(copy.document()))
    from lookonce.catalogue.listing import list_caches

    started = time.process_time()
    listing = list_caches(catalogue, CacheQuery())
    spent = time.process_time() - started
    assert len(listing.caches) == 10_001
    assert listing.text().splitlines()[-1].startswith("10,001 caches, 10,000 of them not there now")
    print(f"10,001 entries were read and looked at in {spent:.2f} s of CPU")


def test_storage_that_refuses_is_told(make_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_cache()

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="EROFS"):
        remove_cache(root)
    assert verify_cache(root, full=True).exit_code == 0


def test_two_people_share_a_cache(forks: Any, tiny_arguments: Callable[..., list[Any]], tmp_path: Path) -> None:
    """One extracts; another finds, trains and pins; a third adds a seed; the clean-up respects all of them."""

    def command(name: str, *arguments: object) -> tuple[str, str]:
        environment = {"LOOKONCE_CATALOGUE": str(tmp_path / "catalogue")}
        ended = forks.start([str(one) for one in arguments], command=name, **environment).wait()
        assert ended.code == 0, ended.err
        return ended.out, ended.err

    flags = {"view_size": 64, "patch_size": 16}
    cache = tmp_path / "ann" / "tiny"
    command("extract-features", *tiny_arguments(cache, seeds="0", **flags))
    found, _ = command("feature-cache", "find", "--teacher", "timm:vit_tiny_patch16_224", "--view-size", 64)
    assert found.split() == [str(cache)]

    run = tmp_path / "bob" / "run"
    small = ["--student", "test_vit", "--epochs", 1, "--batch-size", 8, "--device", "cpu", "--workers", 0]
    _, err = command("train-student", "--shards", "tiny", "--out", run, "--layer-weights", "top2", *small)
    assert f"tiny: {cache}, by the catalogue" in err
    assert json.loads((run / "config.json").read_text())["shards"] == [str(cache)]
    assert list((cache / "pins").iterdir()) == []  # the run has ended
    command("feature-cache", "pin", "tiny", "--by", "bob")

    _, err = command("extract-features", *tiny_arguments(tmp_path / "carol", seeds="0", **flags))
    assert (
        f"note: the catalogue has this recipe already: {cache} (int8, seeds 0); train from it, or give --reuse" in err
    )
    out, _ = command("feature-cache", "plan", *tiny_arguments(tmp_path / "dan", **flags), "--probe-seconds", 0.1)
    assert f"{cache} (int8, seeds 0)" in out
    command("extract-features", *tiny_arguments(cache, seeds="0-1", **flags))
    found, _ = command("feature-cache", "find", "--min-seeds", 2)
    assert found.split() == [str(cache)]

    out, _ = command("feature-cache", "gc", "--older-than", "0h", "--delete")
    assert "pinned by bob" in out
    assert cache.exists()
    assert not (tmp_path / "carol").exists()
    command("feature-cache", "unpin", "tiny", "--by", "bob")
    command("feature-cache", "gc", "--older-than", "1h", "--delete")
    assert cache.exists()
    command("feature-cache", "gc", "--older-than", "0h", "--delete")
    assert not cache.exists()


def test_a_training_run_holds_its_caches(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    from lookonce.train.config import TrainingConfig
    from lookonce.train.run import train_student

    cache, seen = training_cache(), []

    def look() -> bool:
        seen.append([str(pin) for pin in held_pins(cache)])
        with pytest.raises(BusyError, match="is pinned by training run"):
            remove_cache(cache)
        return False

    config = TrainingConfig(
        shards=(cache,), out=tmp_path / "run", student="test_vit", layer_weights="top2", epochs=1, batch_size=8
    )
    train_student(config, show_progress=False, stop_asked=look)
    assert seen
    assert all(pins[0].startswith(f"training run {tmp_path / 'run'} (process {os.getpid()} ") for pins in seen)
    assert held_pins(cache) == []
