"""What a model's pixels are normalised by; no torch here, so that command lines can check it at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookonce.shared.errors import UsageError

RGB = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """``(pixel / 255 - mean) / std``, for each of red, green and blue."""

    mean: RGB
    """What is subtracted from RGB in [0, 1]."""
    std: RGB
    """What RGB in [0, 1] is then divided by; above 0."""

    def __str__(self) -> str:
        """For people."""
        return f"mean {_numbers(self.mean)}, std {_numbers(self.std)}"

    @property
    def flags(self) -> str:
        """As a command takes it."""
        return f"--mean {' '.join(f'{v:g}' for v in self.mean)} --std {' '.join(f'{v:g}' for v in self.std)}"

    def replaced(self, mean: RGB | None, std: RGB | None) -> Normalisation:
        """The same, but for what is given."""
        return Normalisation(mean=mean or self.mean, std=std or self.std)

    def document(self) -> dict[str, list[float]]:
        """JSON-compatible."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Normalisation | None:
        """Mean and std of a model's description, such as timm's ``pretrained_cfg``; None where it has none."""
        try:
            mean, std = (tuple(map(float, document[name])) for name in ("mean", "std"))
        except (KeyError, TypeError, ValueError):
            return None
        if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
            return None
        return cls(mean=mean, std=std)


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What students are trained with unless they are told otherwise."""


def require_rgb(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuse values of ``--mean`` and ``--std`` that are none; None is allowed.

    Raises:
        UsageError: with the flag, the value and what is allowed.

    >>> require_rgb((0.5, 0.5, 0.5), (0.5, 0.5, 0.0))
    Traceback (most recent call last):
    lookonce.shared.errors.UsageError: --std 0.5 0.5 0: must be 3 numbers from 0 to 1, for red, green, blue, above 0
    """
    for flag, values, least in (("--mean", mean, ""), ("--std", std, ", above 0")):
        if values is None:
            continue
        whole = len(values) == 3 and all(0 <= value <= 1 for value in values)
        if not whole or (least and min(values) <= 0):
            raise UsageError(
                f"{flag} {' '.join(f'{value:g}' for value in values)}: must be 3 numbers from 0 to 1, for red, green, "
                f"blue{least}"
            )


def _numbers(values: RGB) -> str:
    return " ".join(f"{value:g}" for value in values)
