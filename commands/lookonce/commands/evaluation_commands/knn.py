"""``evaluate-student knn``: weighted k-nearest neighbours, no training at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lookonce.commands.evaluation_commands.options import (
    EvaluationOptions,
    build_encoder,
    open_images,
    with_normalisation,
)
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_without_effect

DESCRIPTION = """Classify the images of test/ by their nearest neighbours among those of train/ (cosine of frozen
features, votes weighted by exp(cosine / 0.07)) and print the share that is right."""


@dataclass(frozen=True, kw_only=True)
class KnnOptions(EvaluationOptions):
    """Flags of evaluate-student knn."""

    k: str = "10,20"
    """Numbers of neighbours, such as 10 or 5,10,20; an accuracy for each."""

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
    """Numbers of neighbours from ``10,20``: in the order given, without repeats.

    Raises:
        UsageError: not numbers from 1 on, separated by commas.

    >>> parse_neighbours("10, 20,10")
    (10, 20)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--k {text!r}: expected numbers of neighbours from 1 on, such as 10,20")
    return tuple(dict.fromkeys(int(part) for part in parts))


def run_knn(options: KnnOptions) -> Mapping[str, Any]:
    """Encode both splits and classify; see ``lookonce.api.evaluate_knn`` for what is returned."""
    images = open_images(options, "k-NN")
    from lookonce.train.evaluation.knn import evaluate_knn

    encoder = build_encoder(options)
    result = evaluate_knn(encoder, images, k=parse_neighbours(options.k), batch_size=options.batch_size)
    return with_normalisation(result, encoder)


def summarise_knn(result: Mapping[str, Any]) -> str:
    """The result as a few lines for people."""
    evaluated = result["evaluated"]
    lines = [
        f"{evaluated['kind']} {evaluated['name']}" + (f" ({evaluated['weights']})" if evaluated["weights"] else ""),
        f"images    {result['train_images']} train, {result['test_images']} test, {len(result['classes'])} classes",
        f"features  {result['features']} values ({evaluated['pool']}), views of {evaluated['view_size']} px",
    ]
    return "\n".join(lines + [f"k = {k:<5} {accuracy:.2%} right" for k, accuracy in result["accuracy"].items()])
