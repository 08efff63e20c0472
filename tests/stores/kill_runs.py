"""Run by test_kills.py in a process of its own: kills training from a URL, and the clean-up of caches, in children.

Arguments: CACHE URL FOLDER SEED KILLS. The URL has the cache already. This process never opens a store, so that its
children can. Prints as JSON how many children were killed and how many ended. Exits with 1 and a traceback if something
is lost, wrong, or taken for whole and is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from kill_transfers import KILLED, PATIENCE, in_child

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.catalogue.catalogue import Catalogue
from lookonce.catalogue.clean_up import clean_up
from lookonce.catalogue.pins import pin_cache
from lookonce.catalogue.query import CacheQuery
from lookonce.stores.transport import hub as _imported_once  # noqa: F401 - so that children start at once
from lookonce.train.config import TrainingConfig
from lookonce.train.run import train_student

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 3,
    "batch_size": 4,
    "base_lr": 0.05,
    "log_steps": 1,
    "checkpoint_steps": 5,
    "device": "cpu",
    "drop_path": 0.0,
    "workers": 1,
    "shuffle": "block",
    "shuffle_shards": 1,
}


class Scene:
    def __init__(self, cache: Path, url: str, folder: Path) -> None:
        self.cache, self.url, self.folder, self.objects = cache, url, folder, folder / "objects"
        reader = CacheReader(cache)
        stored = [one for seed in reader.seeds for receipt in reader.receipts(seed) for one in receipt.objects]
        self.limit = sum(one.bytes for one in stored) * 3 // 4
        self.names = {one.digest.rpartition(":")[2] for one in stored}
        self.catalogue = Catalogue(folder / "catalogue")
        folder.mkdir()

    def train(self, run: Path, *, local: bool = False) -> None:
        place: dict[str, Any] = {"shards": (self.cache,)}
        if not local:
            place = {"shards": (self.url,), "cache_dir": self.objects, "cache_limit": str(self.limit)}
            place["patience"] = PATIENCE
        train_student(TrainingConfig(out=run, **place, **RECIPE), show_progress=False)

    def losses(self, run: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def check_objects(self) -> None:
        """What lies there has the bytes that its name says, and no more lies there than is allowed."""
        found = list(self.objects.glob("objects/*/*"))
        for path in found:
            assert path.name in self.names, path
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, path
        assert sum(path.stat().st_size for path in found) <= self.limit

    def clean_up(self) -> None:
        clean_up(self.catalogue, CacheQuery(unused_for=timedelta()), delete=True)

    def check_caches(self) -> None:
        """The pinned cache is whole, and the other one is whole or gone."""
        assert verify_cache(self.folder / "pinned", full=True).whole
        if (self.folder / "old" / "manifest.json").exists():
            assert verify_cache(self.folder / "old", full=True).whole
        else:
            assert not (self.folder / "old").exists()

    def make_caches(self) -> None:
        for name in ("pinned", "old"):
            if not (self.folder / name).exists():
                shutil.copytree(self.cache, self.folder / name)
                self.catalogue.enter(self.folder / name)
        pin_cache(self.folder / "pinned", "someone")


def kill(scene: Scene, generator: random.Random, kills: int) -> dict[str, int]:
    found, number = {"killed": 0, "ended": 0}, 0
    assert in_child(lambda: scene.train(scene.folder / "local", local=True)) == 0
    expected, began = scene.losses(scene.folder / "local"), time.monotonic()
    assert in_child(lambda: scene.train(scene.folder / "first")) == 0
    assert scene.losses(scene.folder / "first") == expected
    duration = time.monotonic() - began
    while found["killed"] < kills:
        if found["killed"] % 2:
            scene.make_caches()
            code = in_child(scene.clean_up, generator.random() * 0.1)
            scene.check_caches()
        else:
            run = scene.folder / f"run-{number}"
            code = in_child(lambda run=run: scene.train(run), generator.random() * duration)
            scene.check_objects()
            if code == 0:
                assert scene.losses(run) == expected
                number += 1
        assert code in (0, KILLED)
        found["killed" if code else "ended"] += 1
    last = scene.folder / f"run-{number}"
    assert in_child(lambda: scene.train(last)) == 0
    assert scene.losses(last) == expected
    assert in_child(scene.clean_up) == 0
    assert not list(scene.objects.glob("leases/*")), "the links of all dead processes are gone"
    assert sorted(path.name for path in scene.folder.glob("old*")) == []
    return found


if __name__ == "__main__":
    cache, url, folder, seed, kills = sys.argv[1:]
    os.environ["OMP_NUM_THREADS"] = "1"
    print(json.dumps(kill(Scene(Path(cache), url, Path(folder)), random.Random(int(seed)), int(kills))))
