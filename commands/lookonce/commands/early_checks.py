"""Checks and announcements before torch and timm are imported, which takes several seconds."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lookonce.shared.errors import CheckpointError, TeacherError
from lookonce.shared.faults.os_errors import storage_error
from lookonce.train.config import TrainingConfig
from lookonce.weights.timm_names import refuse_unknown_model

if TYPE_CHECKING:  # training imports nothing of extraction
    from lookonce.extract.config import ExtractionConfig

LOADING = "loading torch and timm ..."
"""The end of every announcement."""


def announce(text: str) -> None:
    """Print on standard error what the command is about to do, from one process of a run.

    Args:
        text: without a full stop.
    """
    if os.environ.get("RANK", "0") == "0":
        print(f"{text}; {LOADING}", file=sys.stderr, flush=True)


def check_extraction(config: ExtractionConfig) -> None:
    """Check what an extraction or its plan does not need the teacher for: names and paths.

    Raises:
        UsageError: unknown teacher, or an unsupported kind of image source.
        TeacherError: the weights file is missing.
        SourceError: there are no images at that path.
        CacheError: ``--out`` is not a cache, or there is no cache to reuse.
    """
    from lookonce.cache.layout import CacheLayout
    from lookonce.cache.write.create import existing_manifest

    check_teacher(config.teacher, config.teacher_weights)
    if config.reuse is not None:
        CacheLayout(config.reuse.expanduser().absolute()).load_manifest()
    if config.images is not None:
        check_images(config.images)
    existing_manifest(config.out.expanduser().absolute())


def check_writable(out: Path) -> None:
    """Check that a folder, or the nearest folder above it that exists, can be written to.

    Raises:
        StorageError: it cannot.
    """
    folder = out.expanduser().absolute()
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    if not existing.is_dir():
        return  # the command tells what lies there
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise storage_error(error, folder, "opening the folder for writing") from error


def check_images(images: str) -> None:
    """Check that the kind of image source is supported and that its folder or tars exist.

    Raises:
        UsageError: the kind of source is not supported.
        SourceError: the folder or the tars do not exist.
    """
    from lookonce.shared.sources import ImageFolder, TarShards, open_source

    source = open_source(images)
    missing_folder = isinstance(source, ImageFolder) and not source.root.is_dir()
    missing_tars = isinstance(source, TarShards) and (not source.paths or None in source.stamps)
    if missing_folder or missing_tars:
        source.listing()  # raises the error, with what was found instead


def check_teacher(name: str, weights: Path | None) -> None:
    """Check that the teacher is known and that the weights file exists.

    Raises:
        UsageError: the name is not in the table, or timm has no model of that name.
        TeacherError: the file does not exist.
    """
    from lookonce.extract.teachers.table import teacher_library

    library, library_name = teacher_library(name)
    if library == "timm":
        refuse_unknown_model(library_name, "teacher")
    if weights is not None and not weights.expanduser().exists():
        raise TeacherError(f"no weights file at {weights}: give --teacher-weights a safetensors file or a checkpoint")


def check_training(config: TrainingConfig, sweep: Path | None = None) -> None:
    """Check that caches and files exist and that timm has the student.

    Raises:
        CacheError: there is no cache, or its manifest is not valid.
        UsageError: a URL is malformed, timm has no such student, or the sweep file cannot be read.
        CheckpointError: the checkpoint does not exist.
    """
    from lookonce.cache.layout import CacheLayout
    from lookonce.stores.transport.urls import parse_url
    from lookonce.train.sweep.sweep_file import read_sweep

    for cache in config.folders:
        CacheLayout(cache).load_manifest()
    for url in config.urls:
        parse_url(url, "--shards")
    runs = [config] if sweep is None else [*read_sweep(sweep, config).values()]
    for run in runs:
        refuse_unknown_model(run.student, "student")
    if config.resume not in ("auto", "never") and not Path(config.resume).exists():
        raise CheckpointError(f"{config.resume}: no such checkpoint; check --resume")


def check_model(weights: Path | None, student: str | None) -> None:
    """Check that the weights of a student exist and that timm has the student.

    Raises:
        CheckpointError: the file does not exist.
        UsageError: timm has no such student.
    """
    if student is not None:
        refuse_unknown_model(student, "student")
    if weights is not None and not weights.exists():
        raise CheckpointError(f"{weights}: expected a student's weights (a run's student.safetensors), found no file")
