"""The stage ``study`` of gpu.py: students of a DeiT-Tiny cache of Tiny ImageNet, as long as the time that is left.

The parts of ``examples/precision_study.py``: one fp16 cache, conversions of it, a student of each, judged by k-NN and a
linear probe. How many epochs there is time for is found by a short run; a student is written when it is judged.
"""

from __future__ import annotations

import os
import sys
import tarfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from gpu_stage import Stage, stage

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))

from precision_study import PrecisionStudy, StoredAs, converted
from study import DATA, train_and_judge
from study_options import study_options

WAYS = tuple(StoredAs(precision=precision) for precision in ("fp16", "int4", "int8"))
MEASURED_EPOCHS, LEAST_EPOCHS, MOST_EPOCHS = 2, 4, 100
JUDGED = ("training", "knn", "linear")
THREADS = min(8, len(os.sched_getaffinity(0)))
"""That read batches ahead."""


def unpacked(told: Stage) -> Path:
    """The images as class folders of train and test."""
    folder = told.work / "tiny_imagenet"
    for split in ("train", "test"):
        for packed in sorted((DATA / "tiny_imagenet").glob(f"{split}.tar*")):
            with tarfile.open(packed) as tar:
                tar.extractall(folder / split, filter="data")
    if not folder.is_dir():
        raise FileNotFoundError(f"no Tiny ImageNet at {DATA / 'tiny_imagenet'}: set LOOKONCE_DATA_DIR")
    return folder


def options(told: Stage) -> PrecisionStudy:
    """On a GPU: 14,000 images at 64 px, shown at 96 px in 36 patches, four views of each."""
    out = ["--out", str(told.work / "study")]
    if told.dry:
        return study_options(PrecisionStudy, None, [*out, "--quick", "--cached-seeds", "0"])
    weights = DATA / "deit_tiny_patch16_224.safetensors"
    given = ["--images", str(unpacked(told)), "--teacher-weights", str(weights), "--view-size", "96"]
    return study_options(PrecisionStudy, None, [*out, *given, "--batch-size", "512", "--base-lr", "5e-4"])


@contextmanager
def timed(told: Stage, name: str) -> Generator[None]:
    started = time.perf_counter()
    yield
    told.result.raw(f"{name}, seconds", round(time.perf_counter() - started, 2))


def epochs_that_fit(told: Stage, study: PrecisionStudy, cache: Path) -> int:
    """Of each student, by a run too short to judge students; a fifth of the time is kept for conversions."""
    config = study.training(cache, out=study.out / "runs" / "measured", epochs=MEASURED_EPOCHS, workers=THREADS)
    begun = told.left
    train_and_judge(config, images=study.images, held_out=cache, judges=("training",))
    trained = begun - told.left
    train_and_judge(config, images=study.images, held_out=cache, judges=JUDGED)
    judged = begun - told.left - trained
    told.result.raw(f"{MEASURED_EPOCHS} epochs, seconds: training, judging", [round(trained, 2), round(judged, 2)])
    fitting = (0.8 * told.left / len(WAYS) - judged) / trained * MEASURED_EPOCHS
    return int(min(MOST_EPOCHS, max(LEAST_EPOCHS, fitting)))


def main() -> None:
    with stage("study") as told:
        study = options(told)
        with timed(told, "extraction"):
            exact = study.extract("fp16", split="train", seeds=study.cached_seeds, precision="fp16")
        epochs = epochs_that_fit(told, study, exact)
        epochs = min(epochs, study.epochs) if told.dry else epochs
        told.result.raw("epochs", epochs)
        for way in WAYS:
            with timed(told, f"{way.name}: conversion"):
                cache = converted(study, exact, way)
            out = study.out / "runs" / way.name
            config = study.training(cache, out=out, epochs=epochs, warmup_epochs=epochs / 10, workers=THREADS)
            with timed(told, f"{way.name}: training and judging"):
                measures = train_and_judge(config, images=study.images, held_out=exact, judges=JUDGED)
            told.result.raw(way.name, measures)
            told.result.ratio(f"{way.name}: k-NN, mean of patches, k = 20", measures["knn mean 20"])
            told.result.ratio(f"{way.name}: linear probe", measures["linear"])


if __name__ == "__main__":
    main()
