"""The pipeline of a worker: the same bytes whatever finishes first, errors where they belong, nothing left behind."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lookonce.cache.write.create import create_cache, prepare_seed
from lookonce.extract.pipeline.events import ShardCommitted, ThreadTimes, ViewsDone
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.extract.pipeline.pipeline import QUEUED_BATCHES
from lookonce.extract.pipeline.shard_extractor import ShardExtractor
from lookonce.extract.pipeline.teacher_threads import MAX_CPU_THREADS, TeacherThreads
from lookonce.extract.teachers import TeacherOutput
from lookonce.shared.errors import NumericalError, SourceError, StorageError, UnreadableImageError
from lookonce.shared.sources import ListingEntry
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.tokens import parse_token_subset

SAMPLES, SHARD, BATCH = 11, 4, 2
TASKS = 3


def png(row):
    pixels = np.random.default_rng(row).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class FakeSource:
    """Images in memory; the earlier ones take longer."""

    def __init__(self, **spoiled):
        self.data = {f"{row}.png": png(row) for row in range(SAMPLES)} | {f"{k[1:]}.png": v for k, v in spoiled.items()}
        self.read_keys = []

    def read(self, entry):
        self.read_keys.append(entry.key)
        data = self.data[entry.key]
        time.sleep(0.002 * (SAMPLES - int(entry.key.split(".")[0])))
        if isinstance(data, Exception):
            raise data
        return data


class FakeTeacher:
    """Features that are a function of the view; every other look takes long."""

    def __init__(self, width=6, layers=2, patches=16):
        self.mean, self.spec, self.width = torch.zeros(1), SimpleNamespace(library="timm"), width
        self._shape, self._patches = (patches + 1, layers), patches
        self.looks, self.torch_threads, self.poison = 0, set(), None
        self._lock = threading.Lock()

    def __call__(self, views):
        with self._lock:
            self.looks += 1
            slow = self.looks % 2
        self.torch_threads.add(torch.get_num_threads())
        time.sleep(0.03 * slow)
        seeds = views.float().mean((1, 2, 3))
        steps = torch.arange(self._shape[0] * self._shape[1] * self.width).reshape(*self._shape, self.width)
        hidden = torch.sin(seeds[:, None, None, None] * (1 + steps))
        if self.looks == self.poison:
            hidden[0, 0, 0, 0] = torch.nan
        importance = torch.softmax(seeds[:, None] * torch.arange(self._patches) / 50, 1)
        return TeacherOutput(hidden=list(hidden.unbind(2)), importance=importance)


@pytest.fixture
def extraction(make_manifest, tmp_path):
    """Build an extractor for a new cache in a folder; keyword arguments change it."""

    def build(name, *, source=None, teacher=None, threads=1, skip=True, seeds=(0, 3), **manifest_changes):
        manifest = make_manifest(samples=SAMPLES, shard_size=SHARD, **manifest_changes)
        root = tmp_path / name
        create_cache(root, manifest)
        for seed in seeds:
            prepare_seed(root, manifest, seed)
        extractor = ShardExtractor(
            root,
            manifest,
            ViewRecipe(size=32),
            source or FakeSource(),
            teacher or FakeTeacher(),
            batch_size=BATCH,
            skip_bad_images=skip,
            threads=threads,
        )
        tasks = []
        for shard in range(manifest.shard_count):
            rows = manifest.shard_rows(shard)
            tasks.append(ShardTask(shard, seeds, rows, [ListingEntry(f"{row}.png", -1, 9) for row in rows]))
        return root, extractor, tasks

    return build


def digests(root):
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_lanes_do_not_change_a_byte(extraction, container):
    caches = []
    for threads in (1, 4):
        source = FakeSource(_5=b"not an image")
        root, extractor, tasks = extraction(f"{threads}", threads=threads, source=source, container=container)
        events = list(extractor.extract(tasks))
        receipts = [event.receipt for event in events if isinstance(event, ShardCommitted)]
        assert [(receipt.shard, receipt.seed) for receipt in receipts] == [(s, e) for s in range(TASKS) for e in (0, 3)]
        assert sum(event.views for event in events if isinstance(event, ViewsDone)) == 2 * SAMPLES
        assert sorted(source.read_keys) == sorted(f"{row}.png" for row in range(SAMPLES))  # once for both seeds
        caches.append(digests(root))
    assert caches[0] == caches[1]


def test_each_lane_computes_on_its_own_core(extraction):
    teacher = FakeTeacher()
    _, extractor, tasks = extraction("cache", threads=3, teacher=teacher)
    before = torch.get_num_threads()
    list(extractor.extract(tasks))
    assert teacher.torch_threads == {1}
    assert torch.get_num_threads() == before  # of this thread
    many = TeacherThreads(torch.device("cpu"), 4 * MAX_CPU_THREADS)
    assert (many.count, many.threads) == (MAX_CPU_THREADS, 4)


def test_no_more_is_under_way_than_may_be(extraction):
    teacher = FakeTeacher()
    _, extractor, tasks = extraction("cache", threads=2, teacher=teacher, seeds=(0,))
    done = 0
    for event in extractor.extract(tasks):
        assert teacher.looks <= done + 2 + QUEUED_BATCHES + 1
        done += isinstance(event, ViewsDone)


def test_without_a_task_what_is_under_way_goes_on(extraction):
    root, extractor, tasks = extraction("cache")
    asked = []

    def hesitant():
        yield None
        for task in tasks:
            yield task
            while len(list(root.glob("receipts/*/*.json"))) < 2 * (task.shard + 1):  # commits need no further task
                asked.append(task.shard)
                time.sleep(0.01)
                yield None

    receipts = [event.receipt for event in extractor.extract(hesitant()) if isinstance(event, ShardCommitted)]
    assert len(receipts) == 2 * TASKS
    assert asked


@pytest.mark.parametrize(
    ("spoiled", "skip", "error"),
    [
        ({"_5": b"not an image"}, False, UnreadableImageError),
        ({"_5": SourceError("5.png: gone")}, True, SourceError),
    ],
)
def test_an_error_ends_it_and_keeps_what_was_committed(extraction, spoiled, skip, error):
    root, extractor, tasks = extraction("cache", source=FakeSource(**spoiled), skip=skip, threads=2)
    with pytest.raises(error, match=r"5\.png"):
        list(extractor.extract(tasks))
    assert {path.name for path in root.glob("receipts/*/*.json")} <= {"shard-00000.json"}
    assert not list(root.rglob("*.tmp-*"))


@pytest.mark.parametrize("tokens", ["all", "top:0.5"])
def test_features_that_are_not_finite_are_refused(extraction, tokens):
    teacher = FakeTeacher()
    teacher.poison = 3
    subset = parse_token_subset(tokens, mask="attentive", mask_ratio=0.7)
    root, extractor, tasks = extraction("cache", teacher=teacher, tokens=subset, seeds=(7,))
    with pytest.raises(NumericalError, match=r"sample '4.png', seed 7"):
        list(extractor.extract(tasks))
    assert not list(root.rglob("*.tmp-*"))


def test_a_commit_that_fails_is_told(extraction):
    root, extractor, tasks = extraction("cache", seeds=(0,))
    (root / "receipts" / "seed-0000").mkdir(parents=True)
    (root / "receipts" / "seed-0000" / "shard-00001.json").mkdir()  # a folder where the receipt belongs
    with pytest.raises(StorageError, match="shard-00001"):
        list(extractor.extract(tasks))
    assert not list(root.rglob("*.tmp-*"))


def test_closed_in_the_middle_it_leaves_nothing_open(extraction):
    root, extractor, tasks = extraction("cache", threads=2)
    events = extractor.extract(tasks)
    assert isinstance(next(events), ViewsDone)
    events.close()
    assert not list(root.rglob("*.tmp-*"))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("lookonce-teacher")]


def test_time_is_accounted_for(extraction):
    source = FakeSource()
    _, extractor, tasks = extraction("cache", source=source, seeds=(0,))
    spent = sum((event.time for event in extractor.extract(tasks) if isinstance(event, ViewsDone)), ThreadTimes())
    assert spent.teacher >= 0.03 * 3  # the slow looks
    assert spent.decode > 0.01  # the first images take longest
    assert 0 < spent.forward < spent.teacher  # it sleeps, which is no CPU time
