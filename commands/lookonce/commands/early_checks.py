"""What commands refuse, and what they announce, before torch and timm are imported: that takes several seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lookonce.shared.errors import CheckpointError, TeacherError
from lookonce.train.config import TrainingConfig
from lookonce.weights.timm_names import refuse_unknown_model

if TYPE_CHECKING:  # training imports nothing of extraction
    from lookonce.extract.config import ExtractionConfig

LOADING = "loading torch and timm ..."
"""End of an announcement."""


def announce(text: str) -> None:
    """Print on standard error what the command is about to do; of several processes of a run, one does.

    Args:
        text: without a full stop.
    """
    if os.environ.get("RANK", "0") == "0":
        print(f"{text}; {LOADING}", file=sys.stderr, flush=True)


def check_extraction(config: ExtractionConfig) -> None:
    """Refuse what an extraction or its plan needs no teacher for: names, and paths that lead nowhere.

    Raises:
        UsageError: no such teacher, or a kind of image source that is not supported.
        TeacherError: no weights file.
        SourceError: no images at that path.
        CacheError: ``--out`` is something else than a cache, or there is no cache to reuse.
    """
    from lookonce.cache.layout import CacheLayout
    from lookonce.cache.write.create import existing_manifest

    check_teacher(config.teacher, config.teacher_weights)
    if config.reuse is not None:
        CacheLayout(config.reuse.expanduser().absolute()).load_manifest()
    if config.images is not None:
        check_images(config.images)
    existing_manifest(config.out.expanduser().absolute())


def check_images(images: str) -> None:
    """Refuse a source of images that is not supported, and a folder or tars that are not there.

    Raises:
        UsageError: the kind of source is not supported.
        SourceError: no such folder, or no such tars.
    """
    from lookonce.shared.sources import ImageFolder, TarShards, open_source

    source = open_source(images)
    missing_folder = isinstance(source, ImageFolder) and not source.root.is_dir()
    missing_tars = isinstance(source, TarShards) and (not source.paths or None in source.stamps)
    if missing_folder or missing_tars:
        source.listing()  # raises, and says what was found instead


def check_teacher(name: str, weights: Path | None) -> None:
    """Refuse a teacher that nobody knows, and a weights file that is not there.

    Raises:
        UsageError: the name is not in the table, or timm has no model of that name.
        TeacherError: no such file.
    """
    from lookonce.extract.teachers.table import teacher_library

    library, library_name = teacher_library(name)
    if library == "timm":
        refuse_unknown_model(library_name, "teacher")
    if weights is not None and not weights.expanduser().exists():
        raise TeacherError(f"no weights file at {weights}: give --teacher-weights a safetensors file or a checkpoint")


def check_training(config: TrainingConfig, sweep: Path | None = None) -> None:
    """Refuse caches and files that are not there, and a student that timm does not have.

    Raises:
        CacheError: no cache, or its manifest is not valid.
        UsageError: no such student; or the sweep's file cannot be read.
        CheckpointError: no checkpoint file.
    """
    from lookonce.cache.layout import CacheLayout
    from lookonce.train.sweep.sweep_file import read_sweep

    for cache in config.shards:
        CacheLayout(cache).load_manifest()
    runs = [config] if sweep is None else [*read_sweep(sweep, config).values()]
    for run in runs:
        refuse_unknown_model(run.student, "student")
    if config.resume not in ("auto", "never") and not Path(config.resume).exists():
        raise CheckpointError(f"{config.resume}: no such checkpoint; check --resume")


def check_model(weights: Path | None, student: str | None) -> None:
    """Refuse weights of a student that are not there, and a student that timm does not have.

    Raises:
        CheckpointError: no such file.
        UsageError: no such student.
    """
    if student is not None:
        refuse_unknown_model(student, "student")
    if weights is not None and not weights.exists():
        raise CheckpointError(f"{weights}: expected a student's weights (a run's student.safetensors), found no file")
