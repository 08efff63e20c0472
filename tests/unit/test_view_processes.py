"""View processes: the views of threads, errors with their class and sentence, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from lookonce.cache.write.create import create_cache, prepare_seed
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.extract.pipeline.shard_extractor import ShardExtractor
from lookonce.extract.prepare import resolve_view_processes
from lookonce.extract.teachers import TeacherOutput
from lookonce.extract.views import view_process, view_processes
from lookonce.extract.views.image_views import CroppedViews
from lookonce.extract.views.shared_patches import SharedPatches
from lookonce.extract.views.view_arrays import ViewArrays, ViewMaker, ViewsInThread
from lookonce.extract.views.view_batch import ViewBatch, Window
from lookonce.extract.views.view_processes import VIEWS_PER_MESSAGE, ViewProcesses
from lookonce.shared.errors import MachineError, SourceError, UnreadableImageError, UsageError
from lookonce.shared.images import decoding_room
from lookonce.shared.sources import ImageSource, Listing, ListingEntry, open_source
from lookonce.shared.views import ViewRecipe

IMAGES, SIDE, PATCH = 11, 32, 8
RECIPE = ViewRecipe(size=SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven photos; number 5 is not an image."""
    made = tmp_path_factory.mktemp("images")
    for row in range(IMAGES):
        pixels = np.random.default_rng(row).integers(0, 256, (40 + row, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made / f"{row:02d}.jpg", quality=90)
    (made / "05.jpg").write_bytes(b"not an image")
    return made


@dataclass(frozen=True)
class Views:
    """All arrays of a batch, and its problems."""

    arrays: list[Any]
    unreadable: list[tuple[int, str]]

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Views)
        same = all(np.array_equal(one, two) for one, two in zip(self.arrays, other.arrays, strict=True))
        return same and self.unreadable == other.unreadable


def views_of(maker: ViewMaker, listing: Listing, seeds: Sequence[int] = (0, 7), threads: int = 2) -> Views:
    with ThreadPoolExecutor(threads) as pool:
        return views_in(pool, maker, listing, seeds)


def views_in(pool: ThreadPoolExecutor, maker: ViewMaker, listing: Listing, seeds: Sequence[int]) -> Views:
    window = Window(range(len(listing)), listing.entries, tuple(seeds))
    patches = (SIDE // PATCH) ** 2
    batch = ViewBatch(window, maker, patch_size=PATCH, patches=patches, threads=pool, allocate=empty)
    found = [batch.seed_views(position) for position in range(len(seeds))]
    arrays = [array for one in found for array in (one.patches, one.digests, one.parameters, one.jpegs)]
    return Views(arrays, [(one.row, str(one.problem)) for one in found[0].unreadable])


def empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, dtype=np.uint8)


def processes(source: ImageSource, recipe: ViewRecipe = RECIPE, count: int = 2) -> ViewProcesses:
    return ViewProcesses(CroppedViews(source, recipe), PATCH, count)


def in_thread(source: ImageSource, recipe: ViewRecipe = RECIPE) -> ViewsInThread:
    return ViewsInThread(CroppedViews(source, recipe), PATCH)


def sources(folder: Path, work: Path) -> dict[str, str]:
    with tarfile.open(work / "a.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return {"folder": str(folder), "tars": f"{work}/*.tar"}


@pytest.mark.parametrize("kind", ["folder", "tars"])
@pytest.mark.parametrize("quality", [None, 90])
def test_views_and_holes_are_those_of_threads(folder: Path, tmp_path: Path, kind: str, quality: int | None) -> None:
    source = open_source(sources(folder, tmp_path)[kind])
    listing, recipe = source.listing(), ViewRecipe(size=SIDE, jpeg_quality=quality)
    with processes(source, recipe) as maker:
        found = views_of(maker, listing)
        children = maker.process_ids
        mapped = [Path(f"/proc/{child}/maps").read_text() for child in children]
    assert found == views_of(in_thread(source, recipe), listing)
    assert [row for row, _ in found.unreadable] == [5]
    assert "05.jpg: not a readable image of 12 bytes" in found.unreadable[0][1]
    assert 1 <= len(children) <= 2
    assert all("libjpeg" in maps and "torch" not in maps for maps in mapped)
    assert not any(psutil.pid_exists(child) for child in children)


@pytest.mark.filterwarnings("ignore:Cannot (locate|pickle)")  # dill's, while datasets writes
def test_a_dataset_of_hugging_face_is_opened_in_the_process(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [path.read_bytes() for path in sorted(folder.iterdir())]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    made = datasets.Dataset.from_dict({"image": [{"bytes": row, "path": None} for row in rows]}, features=features)
    made.save_to_disk(str(tmp_path / "set"))
    source = open_source(f"hf:{tmp_path / 'set'}")
    listing = source.listing()
    with processes(source, count=1) as maker:
        found = views_of(maker, listing, threads=1)
        maps = Path(f"/proc/{maker.process_ids[0]}/maps").read_text()
    assert found == views_of(in_thread(source), listing)
    assert "arrow" in maps
    assert "libtorch" not in maps


def test_the_module_of_a_process_imports_no_torch_and_starts_quickly() -> None:
    script = "import sys, lookonce.extract.views.view_process; assert not {'torch', 'ray', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", script], check=True)
    before = os.times()
    with processes(open_source("/nowhere"), count=1) as maker, contextlib.suppress(SourceError):
        one = ListingEntry("a.jpg", -1, 9)
        maker.make([0], [one], [0], ViewArrays.around(empty((1, 1, 16, PATCH * PATCH * 3))))
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2


def test_it_finds_nothing_in_the_current_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    source = open_source(str(folder))
    with processes(source, count=1) as maker:
        assert views_of(maker, source.listing()) == views_of(in_thread(source), source.listing())


def test_memory_grows_with_the_seeds(folder: Path) -> None:
    source = open_source(str(folder))
    listing = source.listing()
    with processes(source, count=1) as maker, ThreadPoolExecutor(1) as pool:
        for seeds in ((3,), range(40), (1, 2)):
            assert views_in(pool, maker, listing, seeds) == views_of(in_thread(source), listing, seeds)
        assert len(maker.process_ids) == 1


def test_shared_patches_are_shared() -> None:
    ours = SharedPatches()
    theirs = SharedPatches(os.dup(ours.descriptor))
    for count in (3, 70_000, 5):
        ours.array((count,))[:] = np.arange(count, dtype=np.uint32).astype(np.uint8)
        assert np.array_equal(theirs.array((1, count))[0], ours.array((count,)))
    kept = ours.array((5,))
    ours.close()
    theirs.close()
    assert kept.tolist() == [0, 1, 2, 3, 4]


def test_how_many_images_a_message_has() -> None:
    maker = processes(open_source("/nowhere"), count=4)
    assert maker.images_per_call(256, 1) == VIEWS_PER_MESSAGE
    assert maker.images_per_call(256, 4) == VIEWS_PER_MESSAGE // 4
    assert maker.images_per_call(256, 100) == 1
    assert maker.images_per_call(32, 1) == 8  # one for every process
    assert maker.images_per_call(1, 1) == 1


def test_errors_have_their_class_and_sentence(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "images"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    source = open_source(str(copy))
    listing = source.listing()
    (copy / "07.jpg").unlink()
    told = []
    for maker in (contextlib.nullcontext(in_thread(source)), processes(source)):
        with maker as opened, pytest.raises(SourceError, match=r"07\.jpg: .* found no readable file") as caught:
            views_of(opened, listing)
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_an_image_that_is_too_large_for_a_process_is_made_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(folder))
    listing = source.listing()
    expected = views_of(in_thread(source), listing)
    made_here: list[int] = []
    usual = ViewArrays.fill

    def fill(self: ViewArrays, index: int, producer: Any, patch_size: int, row: int, *rest: Any) -> Any:
        made_here.append(row)
        return usual(self, index, producer, patch_size, row, *rest)

    monkeypatch.setattr(ViewArrays, "fill", fill)
    monkeypatch.setattr(view_processes, "room_for", lambda memory: 2 * 9 * 50 * 47)
    with processes(source) as maker:
        assert views_of(maker, listing) == expected
    assert sorted(made_here) == [8, 9, 10]  # 48 rows and more


def test_a_strict_room_refuses_instead_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_room, "_room", decoding_room.shared_room())  # restored afterwards
    decoding_room.limit_shared_room(100)
    with decoding_room.shared_room().place() as place:
        place.admit(100)
    with pytest.raises(MemoryError), decoding_room.shared_room().place() as place:
        place.admit(101)
    assert decoding_room.shared_room().taken == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_process_ends_the_run_with_a_sentence(folder: Path, number: signal.Signals) -> None:
    source = open_source(str(folder))
    listing = source.listing()
    with processes(source, count=1) as maker, ThreadPoolExecutor(1) as pool:
        views_in(pool, maker, listing, [0])
        os.kill(maker.process_ids[0], number)
        with pytest.raises(MachineError) as caught:
            views_in(pool, maker, listing, [0])
    memory = ", which happens if memory is short," if number == signal.SIGKILL else ""
    assert str(caught.value) == (
        f"a view process was killed by {number.name}{memory} while it made the views of '00.jpg' to '10.jpg'; give "
        "fewer --view-processes, or --view-processes 0 to make views in threads; what was committed stays valid"
    )


class Unreadable:
    """A source that cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("/nowhere/at/all",)


def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    into, one = ViewArrays.around(empty((1, 1, 16, 192))), [ListingEntry("a.jpg", -1, 9)]
    with processes(Unreadable()) as maker, pytest.raises(MachineError, match=r"No such file.*/nowhere/at/all"):  # type: ignore[arg-type]
        maker.make([0], one, [0], into)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with (
        processes(open_source("/nowhere")) as maker,
        pytest.raises(
            MachineError, match=r"a view process cannot be started \(No such file or directory \(ENOENT\)\); give fewer"
        ),
    ):
        maker.make([0], one, [0], into)


def test_signals_do_not_end_it_but_the_end_of_its_parent_does(folder: Path) -> None:
    """The parent is killed while its process waits: it has no chance to tell it."""
    script = (
        "import sys, time\n"
        "from lookonce.extract.views.image_views import CroppedViews\n"
        "from lookonce.extract.views.view_arrays import ViewArrays\n"
        "from lookonce.extract.views.view_processes import ViewProcesses, np\n"
        "from lookonce.shared.sources import open_source\n"
        "from lookonce.shared.views import ViewRecipe\n"
        "source = open_source(sys.argv[1])\n"
        "maker = ViewProcesses(CroppedViews(source, ViewRecipe(size=32)), 8, 1)\n"
        "maker.make([0], source.listing().entries[:1], [0], ViewArrays.around(np.empty((1, 1, 16, 192), np.uint8)))\n"
        "print(*maker.process_ids, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(one)) for one in parent.stdout.readline().split()]
        assert children
        for child in children:
            child.send_signal(signal.SIGINT)
            child.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert all(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
        assert all(os.getpgid(child.pid) != os.getpgid(parent.pid) for child in children)
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


class Teacher:
    """Features that are a function of the view."""

    def __init__(self) -> None:
        self.mean, self.spec, self.width = torch.zeros(1), SimpleNamespace(library="timm"), 6

    def __call__(self, views: torch.Tensor) -> TeacherOutput:
        means = views.float().mean((1, 2, 3))
        hidden = torch.sin(means[:, None, None, None] * torch.arange(1, 17 * 2 * 6 + 1).reshape(17, 2, 6))
        return TeacherOutput(
            hidden=list(hidden.unbind(2)), importance=torch.softmax(means[:, None] + torch.arange(16), 1)
        )


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
@pytest.mark.parametrize("quality", [None, 90])
def test_the_cache_is_the_same_to_the_byte(
    folder: Path, tmp_path: Path, make_manifest: Any, container: str, quality: int | None
) -> None:
    source, found = open_source(str(folder)), []
    entries = source.listing().entries
    manifest = make_manifest(samples=IMAGES, shard_size=4, container=container, jpeg_quality=quality)
    for count in (0, 2):
        root = tmp_path / f"{count}"
        create_cache(root, manifest)
        tasks = []
        for shard in range(manifest.shard_count):
            rows = manifest.shard_rows(shard)
            tasks.append(ShardTask(shard, (0, 3), rows, [entries[row] for row in rows]))
        for seed in (0, 3):
            prepare_seed(root, manifest, seed)
        for skip in (False, True):  # the first ends at the hole, the second completes what is left
            extractor = ShardExtractor(
                root,
                manifest,
                ViewRecipe(size=SIDE, jpeg_quality=quality),
                source,
                Teacher(),  # type: ignore[arg-type]
                batch_size=3,
                skip_bad_images=skip,
                threads=2,
                view_processes=count,
            )
            with contextlib.nullcontext() if skip else pytest.raises(UnreadableImageError, match=r"05\.jpg: not a"):
                list(extractor.extract(tasks))
        found.append({path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()})
        assert not [child for child in psutil.Process().children() if view_process.__name__ in child.cmdline()]
    assert found[0] == found[1]


def test_how_many_there_are() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [resolve_view_processes("auto", gpu, cores) for cores in (2, 4, 16)] == [0, 4, 16]
    assert resolve_view_processes("auto", cpu, 16) == 0
    assert [resolve_view_processes("3", device, 1) for device in (cpu, gpu)] == [3, 3]
    for wrong in ("-1", "all", "1.5", "100000"):
        with pytest.raises(UsageError, match=f"--view-processes {wrong}: must be auto, or a number from 0"):
            ExtractionConfig(teacher="clip-b16", images="x", out=Path("y"), view_processes=wrong)
