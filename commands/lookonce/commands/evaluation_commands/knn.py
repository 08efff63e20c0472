"""``evaluate-student knn``: weighted k-nearest neighbours, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookonce.commands.evaluation_commands.options import EvaluationOptions, Measure, build_encoder, open_images
from lookonce.shared.config_values import NonNegativeInt
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_without_effect

if TYPE_CHECKING:
    from lookonce.train.evaluation.knn import KnnResult

DESCRIPTION = """Classify the images of test/ by their nearest neighbours among those of train/ (cosine of frozen
features, votes weighted by exp(cosine / 0.07)) and print the accuracy."""


@dataclass(frozen=True, kw_only=True)
class KnnOptions(EvaluationOptions):
    """Flags of evaluate-student knn."""

    seed: NonNegativeInt = 0
    """Seed of the untrained student's weights."""
    k: str = "10,20"
    """Numbers of neighbours, such as 10 or 5,10,20; each gives an accuracy."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        super().__post_init__()
        if not self.untrained:
            refuse_without_effect(self, "--untrained", "seed")
        parse_neighbours(self.k)


def parse_neighbours(text: str) -> tuple[int, ...]:
    """Numbers of neighbours from text such as ``10,20``: in the given order, without repetitions.

    Raises:
        UsageError: not numbers of at least 1, separated by commas.

    >>> parse_neighbours("10, 20,10")
    (10, 20)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--k {text!r}: expected numbers of neighbours of at least 1, such as 10,20")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _run(options: KnnOptions) -> KnnResult:
    images = open_images(options, "k-NN")
    from lookonce.train.evaluation.knn import evaluate_knn

    encoder = build_encoder(options, options.pool, options.seed)
    return evaluate_knn(encoder, images, k=parse_neighbours(options.k), batch_size=options.batch_size)


KNN = Measure(name="knn", description=DESCRIPTION, options=KnnOptions, run=_run)
