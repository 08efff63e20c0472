"""``evaluate-student segment``: semantic segmentation from frozen patch features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lookonce.commands.evaluation_commands.options import (
    FrozenModelOptions,
    Measure,
    announce_evaluation,
    build_encoder,
    check_models,
    print_note,
)
from lookonce.train.evaluation.segmentation.segment_config import SegmentConfig

if TYPE_CHECKING:
    from lookonce.train.evaluation.segmentation.segment import SegmentResult

DESCRIPTION = """Segment the images of --val-images by frozen patch features, from --images and --masks, and print mean
IoU, pixel accuracy and the IoU of each class. Masks are PNGs of class indices, named like their images."""


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(FrozenModelOptions):
    """Flags of evaluate-student segment."""

    images: Path
    """Folder of the training images."""
    masks: Path
    """Folder of their masks: PNGs of class indices (grey or palette), with the size and name of the image."""
    val_images: Path
    """Folder of the test images."""
    val_masks: Path
    """Folder of their masks."""
    segmentation: SegmentConfig = field(default_factory=SegmentConfig)


def _run(options: SegmentOptions) -> SegmentResult:
    from lookonce.train.evaluation.segmentation.masked_images import open_masked_images

    check_models(options)
    train = open_masked_images("train", options.images, options.masks)
    test = open_masked_images("test", options.val_images, options.val_masks)
    announce_evaluation(options, "segmentation")
    for note in (*train.notes, *test.notes):
        print_note(note)
    from lookonce.train.evaluation.segmentation.segment import evaluate_segmentation

    config = options.segmentation
    encoder = build_encoder(options, "patches", config.seed, config.block)
    return evaluate_segmentation(encoder, train, test, config, batch_size=options.batch_size)


SEGMENT = Measure(name="segment", description=DESCRIPTION, options=SegmentOptions, run=_run)
