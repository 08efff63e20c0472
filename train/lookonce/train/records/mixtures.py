"""Pictures of the mixing matrices W: for TensorBoard during the run, and in its folder at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lookonce.train.records.pictures import draw_mixture, mixture_pixels
from lookonce.train.setup import TrainingSetup


def mixture_images(setup: TrainingSetup, mixtures: Sequence[Tensor | None]) -> dict[str, NDArray[np.uint8]]:
    """W of each teacher that has one, as ``W/1``, ``W/2``, ... in the order of --shards; uint8 (height, width, 3)."""
    return {
        f"W/{number}": mixture_pixels(
            _array(mixture), student=setup.model.student.name, teacher=teacher, teacher_blocks=alignment.teacher_blocks
        )
        for number, (teacher, alignment, mixture) in enumerate(
            zip(setup.teacher_names, setup.model.alignments, mixtures, strict=True), start=1
        )
        if mixture is not None
    }


def draw_mixtures(setup: TrainingSetup, mixtures: Sequence[Tensor | None], run: Path) -> None:
    """Write ``alignment.png`` to a run's folder, and ``alignment-2.png`` and so on for further teachers.

    Raises:
        StorageError: the operating system refused.
    """
    for number, (teacher, alignment, mixture) in enumerate(
        zip(setup.teacher_names, setup.model.alignments, mixtures, strict=True), start=1
    ):
        if mixture is not None and alignment.initial_weight is not None:
            draw_mixture(
                _array(mixture),
                _array(alignment.initial_weight),
                run / ("alignment.png" if number == 1 else f"alignment-{number}.png"),
                student=setup.model.student.name,
                teacher=teacher,
                teacher_blocks=alignment.teacher_blocks,
            )


def _array(weight: Tensor) -> NDArray[np.float32]:
    return weight.detach().float().cpu().numpy()
