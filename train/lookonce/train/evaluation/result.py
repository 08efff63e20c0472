"""What the results of all measures have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lookonce.shared.errors import CheckpointError
from lookonce.shared.normalisation import Normalisation
from lookonce.shared.printing import Result

R = TypeVar("R", bound="EvaluationResult")


@dataclass(frozen=True, kw_only=True)
class EvaluationResult(Result):
    """The result of a measure: what was evaluated, and on which images."""

    evaluated: Mapping[str, Any]
    """Document of the model, see ``Encoder.document``."""
    normalisation: Normalisation
    """Of the model's pixels."""
    classes: list[str]
    """Class names by label."""
    train_images: int
    test_images: int

    def _common_lines(self) -> list[str]:
        """The first lines of the text: the model and the images."""
        name, weights = f"{self.evaluated['kind']} {self.evaluated['name']}", self.evaluated["weights"]
        counts = f"{self.train_images} train, {self.test_images} test, {len(self.classes)} classes"
        return [f"{name} ({weights})" if weights else name, f"images    {counts}"]

    def _features_line(self, features: int) -> str:
        """The line about frozen features."""
        return f"features  {features} values ({self.evaluated['pool']}), views of {self.evaluated['view_size']} px"


def stored_result(kind: type[R], path: Path, found: Mapping[str, Any], **others: Any) -> R:
    """The result that ``results.json`` contains.

    Args:
        kind: its class.
        path: the file.
        found: its content.
        others: fields that it does not contain.

    Raises:
        CheckpointError: fields are missing, or are not those of this kind.
    """
    try:
        return kind(**{name: value for name, value in found.items() if name != "method"}, **others)
    except TypeError as error:
        raise CheckpointError(
            f"{path}: is not the result of this evaluation ({error}); move the file away and run the command again: it "
            "computes the result from the newest checkpoint"
        ) from error
