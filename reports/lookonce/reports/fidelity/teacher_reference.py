"""Features straight from a teacher, in float32, as the reference that precisions are judged by."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from lookonce.extract.calibration import calibration_values, calibration_views
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.prepare import build_recipe, load_config_teacher, open_extraction
from lookonce.extract.sanity import check_finite
from lookonce.extract.views.image_views import CroppedViews, batches_of_views
from lookonce.reports.fidelity.reference import Reference, reference_facts, split_images, views_a_batch
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.errors import SourceError, UsageError
from lookonce.storage_schemas.arrays import target_shape
from lookonce.storage_schemas.precision import calibration_view_count
from lookonce.weights.device import resolve_device

BATCH_IMAGES = 16
"""Images decoded together, fewer if features are large; the teacher runs on the views of one seed at a time."""


def teacher_reference(config: ExtractionConfig, *, views: int) -> Reference:
    """The features of a teacher as the reference; nothing is written.

    The code of the extraction calibrates the precisions, on images that do not judge if there are enough.

    Args:
        config: teacher, images, layers, sizes, seeds and calibration views; its compute precision must be fp32.
        views: views to judge by, at most, over all seeds; at least one image's.

    Raises:
        UsageError: another compute precision.
        SourceError: the source is missing or empty, or none of its images can be read.
        TeacherError: the teacher's weights cannot be had or do not fit.
        NumericalError: a feature is NaN or infinite.
    """
    if config.compute_precision != "fp32":
        raise UsageError(f"--compute-precision {config.compute_precision}: a reference is computed in fp32")
    extraction = open_extraction(config)
    teacher = load_config_teacher(config, resolve_device(config.device))
    recipe, entries, seeds = build_recipe(extraction, teacher), extraction.listing.entries, parse_seeds(config.seeds)
    producer = CroppedViews(extraction.source, extraction.view)
    judged, others = split_images(len(entries), -(-views // len(seeds)))
    calibration = [entries[row] for row in others]

    def calibrate() -> NDArray[np.float32]:
        return calibration_values(teacher, producer, calibration, seed=seeds[0], views=config.calibration_views)

    def calibrate_views() -> Iterator[NDArray[np.float32]]:
        many = calibration_view_count(target_shape(recipe), config.calibration_views)
        return calibration_views(teacher, producer, calibration, recipe.tokens, seed=seeds[0], views=many)

    def batches() -> Iterator[NDArray[np.float32]]:
        size = views_a_batch(recipe)
        rows, seen = judged.tolist(), 0
        with ThreadPoolExecutor() as threads:
            chosen = [entries[row] for row in rows]
            for batch in batches_of_views(rows, chosen, producer, seeds, min(size, BATCH_IMAGES), threads):
                readable = [image for image in batch if image.pixels is not None]
                keys = [entries[image.row].key for image in readable]
                for place, seed in enumerate(seeds if readable else ()):
                    pixels = np.stack([image.pixels[place] for image in readable if image.pixels is not None])
                    features = teacher.extract(torch.from_numpy(pixels).to(teacher.mean.device))
                    check_finite(features, keys, seed)
                    seen += len(pixels)
                    yield features.targets.cpu().numpy()
        if not seen:
            raise SourceError(f"{config.images}: none of the {len(rows)} images to judge by can be read")

    return Reference(
        facts=reference_facts(
            "teacher",
            str(config.images),
            "fp32",
            recipe,
            judged=judged,
            others=others,
            seeds=seeds,
            calibration_views=config.calibration_views,
        ),
        bits=32,
        recipe=recipe,
        store_pixels=config.pixels == "store",
        moments=config.moments,
        jpeg_bytes=0.0,
        calibrate=calibrate,
        calibration_views=calibrate_views,
        batches=batches,
    )
