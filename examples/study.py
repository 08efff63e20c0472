"""Common parts of the studies: caches, runs, judged students, and tables of the results.

A study makes its caches, lists its runs as ``Variant``s and calls ``run_study``. Started again, it repeats nothing: a
cache is completed, a run resumes from its checkpoint, and the result of a judged run is read from its folder.

    OUT/caches/...              features
    OUT/runs/NAME-seed0/        a run of train-student, and judged.json
    OUT/results.json            the numbers of all tables
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from study_judge import JUDGES

from lookonce.api import ExtractionConfig, TrainingConfig, UsageError, extract_features, parse_seeds, train_student

DATA = Path(os.environ.get("LOOKONCE_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
HELD_OUT_SEEDS = "0-1"
"""Views of every test image against which students are judged."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Flags of every study."""

    images: Path = DATA / "flowers"
    """Folder with train/CLASS/... and test/CLASS/... images."""
    out: Path
    """Folder of the study; the same folder resumes it."""
    teacher: str = "deit-tiny"
    """Name of the teacher, as for extract-features."""
    teacher_weights: Path | None = None
    """The teacher's weights file; otherwise the hub cache or the hub."""
    student: str = "vit_tiny_patch16_224"
    """timm name of the student."""
    view_size: int = 112
    """Side of a view in pixels."""
    epochs: int = 24
    """Epochs of each run."""
    warmup_epochs: float = 3.0
    """Epochs of linear warm-up."""
    batch_size: int = 64
    """Samples per step."""
    base_lr: float = 4e-3
    """Learning rate for a batch of 256; it scales with the batch size."""
    run_seeds: str = "0"
    """Seeds of the runs of each variant, such as 0-2."""
    limit: int | None = None
    """Number of training images, taken evenly over the classes; None for all."""
    processes: int = 1
    """Runs in parallel, each with its share of the cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of teachers and students."""
    quick: bool = False
    """Run the study in seconds, on random images with a tiny random teacher; its numbers mean nothing."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs of each variant."""
        return parse_seeds(self.run_seeds)

    def extract(self, name: str, *, split: str, seeds: str, precision: str, layers: str = "top5") -> Path:
        """Create or complete the cache ``OUT/caches/NAME``."""
        config = ExtractionConfig(
            teacher=self.teacher,
            teacher_weights=self.teacher_weights,
            images=str(self.images / split),
            out=self.out / "caches" / name,
            seeds=seeds,
            precision=precision,
            layers=layers,
            executor="inline",
            view_size=self.view_size,
            limit=self.limit if split == "train" else None,
            device=self.device,
        )
        return Path(extract_features(config, show_progress=False).cache)

    def held_out(self, layers: str = "top5") -> Path:
        """Extract fp16 features of views of the test images, which judge every student."""
        return self.extract("held-out", split="test", seeds=HELD_OUT_SEEDS, precision="fp16", layers=layers)

    def training(self, cache: Path, **changes: Any) -> TrainingConfig:
        """Configure a run of this study; ``run_study`` sets its seed and folder."""
        recipe: dict[str, Any] = {
            "shards": (cache,),
            "out": self.out,
            "student": self.student,
            "epochs": self.epochs,
            "warmup_epochs": self.warmup_epochs,
            "batch_size": self.batch_size,
            "base_lr": self.base_lr,
            "drop_path": 0.0,
            "workers": 1,
            "device": self.device,
            "checkpoint_steps": 200,
        }
        return TrainingConfig(**{**recipe, **changes})


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a table: a run per run seed."""

    name: str
    """Name of the runs' folders."""
    config: TrainingConfig
    """Configuration of the runs, except ``seed`` and ``out``."""


@dataclass(kw_only=True)
class Judged:
    """Measures of a variant's runs: one value per run, in the order of the run seeds."""

    name: str
    seeds: list[int] = field(default_factory=list)
    measures: dict[str, list[float]] = field(default_factory=dict)
    """Values by the names that ``study_judge`` gives."""

    def text(self, measure: str, scale: float = 1.0, digits: int = 1) -> str:
        """Format the mean over the runs, with the standard deviation of two and more."""
        values = [value * scale for value in self.measures.get(measure, [])]
        if not values:
            return "-"
        mean = f"{statistics.fmean(values):.{digits}f}"
        return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def run_study(
    study: Study, variants: Sequence[Variant], held_out: Path, judges: Sequence[str] = ("training", "knn", "held-out")
) -> list[Judged]:
    """Train and judge the variants that have no result yet, one run seed after another.

    Args:
        study: its run seeds, images and number of processes.
        variants: rows of the tables.
        held_out: ``study.held_out()``.
        judges: names in ``study_judge.JUDGES``.

    Returns:
        The variants in their order.

    Raises:
        UsageError: two variants have one name, or a run's folder contains a run of another configuration.
    """
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise UsageError(f"variants must have different names, found {sorted(names)}")
    jobs = [_with_seed(study, variant, seed) for seed in study.seeds for variant in variants]
    work = partial(train_and_judge, images=study.images, held_out=held_out, judges=judges)
    found = dict(zip([config.out for config in jobs], _in_processes(work, jobs, study.processes), strict=True))
    judged = []
    for variant in variants:
        lines = Judged(name=variant.name)
        for seed in study.seeds:
            lines.seeds.append(seed)
            for measure, value in found[_with_seed(study, variant, seed).out].items():
                lines.measures.setdefault(measure, []).append(value)
        judged.append(lines)
    return judged


def _with_seed(study: Study, variant: Variant, seed: int) -> TrainingConfig:
    return replace(variant.config, seed=seed, out=study.out / "runs" / f"{variant.name}-seed{seed}")


def train_and_judge(config: TrainingConfig, *, images: Path, held_out: Path, judges: Sequence[str]) -> dict[str, float]:
    """Train one run to its end and return its measures by name; measures in its folder are read, not repeated.

    Raises:
        UsageError: the folder's run had another configuration.
    """
    file = Path(config.out) / "judged.json"
    wanted = json.loads(json.dumps(config.document()))
    stored = json.loads(file.read_text()) if file.is_file() else {"config": wanted, "measures": {}}
    if stored["config"] != wanted:
        raise UsageError(f"{config.out}: was judged with another configuration; choose another --out")
    measures: dict[str, dict[str, float]] = stored["measures"]
    missing = [name for name in judges if name not in measures]
    if missing:
        train_student(config, show_progress=False)  # returns at once if the run is finished
        measures = {**measures, **{name: JUDGES[name](config, images, held_out) for name in missing}}
        write_json(file, {"config": wanted, "measures": measures})
        shown = ", ".join(f"{name} {value:.4f}" for name in missing for name, value in measures[name].items())
        print(f"{Path(config.out).name}: {shown}", file=sys.stderr, flush=True)
    return {name: value for judge in judges for name, value in measures[judge].items()}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document and then rename it, so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=1))
    temporary.replace(path)


def _in_processes(work: Callable[[Any], Any], jobs: Sequence[Any], processes: int) -> Iterable[Any]:
    if processes == 1:
        return [work(job) for job in jobs]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_share_cores, initargs=(threads,)) as pool:
        waiting = [pool.submit(work, job) for job in jobs]
        for done in as_completed(waiting):
            if done.exception() is not None:  # runs that have not started are cancelled; the next study runs them
                pool.shutdown(cancel_futures=True)
                done.result()
        return [one.result() for one in waiting]


def _share_cores(threads: int) -> None:
    """Initialise a worker: set its threads, and end it with its parent, after which it would wait for jobs for ever."""
    import torch

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    torch.set_num_threads(threads)
    threading.Thread(target=end_with_parent, daemon=True).start()


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table.

    >>> print(table(["", "kNN"], [["a", "1"]]))
    |  | kNN |
    |---|---|
    | a | 1 |
    """
    lines = [heads, ["---"] * len(heads), *rows]
    drawn = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([drawn[0], drawn[1].replace(" ", ""), *drawn[2:]])


def write_results(study: Study, tables: Mapping[str, str], judged: Mapping[str, Sequence[Judged]]) -> None:
    """Write ``OUT/results.json`` and ``OUT/tables.md``, and print the tables."""
    described = {name: str(value) for name, value in vars(study).items()}
    lines = {name: [vars(line) for line in group] for name, group in judged.items()}
    write_json(study.out / "results.json", {"study": described, "tables": lines})
    text = "\n\n".join(f"### {name}\n\n{content}" for name, content in tables.items()) + "\n"
    (study.out / "tables.md").write_text(text)
    print(text)
