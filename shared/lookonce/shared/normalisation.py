"""Pixel mean and standard deviation of a model. It needs no torch, so commands can check them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookonce.shared.errors import UsageError

RGB = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """``(pixel / 255 - mean) / std`` for red, green and blue."""

    mean: RGB
    """Mean, subtracted from RGB in [0, 1]."""
    std: RGB
    """Standard deviation, above 0, by which the difference is divided."""

    def __str__(self) -> str:
        """Both as text."""
        return f"mean {_numbers(self.mean)}, std {_numbers(self.std)}"

    @property
    def flags(self) -> str:
        """Both as command-line flags."""
        return f"--mean {' '.join(f'{v:g}' for v in self.mean)} --std {' '.join(f'{v:g}' for v in self.std)}"

    def replaced(self, mean: RGB | None, std: RGB | None) -> Normalisation:
        """A copy with ``mean`` and ``std`` replaced unless they are None."""
        return Normalisation(mean=mean or self.mean, std=std or self.std)

    def document(self) -> dict[str, list[float]]:
        """Both as a JSON-compatible document."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Normalisation | None:
        """Mean and std of a model's description, such as timm's ``pretrained_cfg``; None if it lacks them."""
        try:
            mean, std = (tuple(map(float, document[name])) for name in ("mean", "std"))
        except (KeyError, TypeError, ValueError):
            return None
        if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
            return None
        return cls(mean=mean, std=std)


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""The default for training students."""


def require_rgb(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuse invalid values of ``--mean`` and ``--std``; None is allowed.

    Raises:
        UsageError: a value is out of range; the message names the flag.

    >>> require_rgb((0.5, 0.5, 0.5), (0.5, 0.5, 0.0))
    Traceback (most recent call last):
    lookonce.shared.errors.UsageError: --std 0.5 0.5 0: must be 3 numbers from 0 to 1, for red, green, blue, above 0
    """
    for flag, values, least in (("--mean", mean, ""), ("--std", std, ", above 0")):
        if values is None:
            continue
        valid = len(values) == 3 and all(0 <= value <= 1 for value in values)
        if not valid or (least and min(values) <= 0):
            raise UsageError(
                f"{flag} {' '.join(f'{value:g}' for value in values)}: must be 3 numbers from 0 to 1, for red, green, "
                f"blue{least}"
            )


def _numbers(values: RGB) -> str:
    return " ".join(f"{value:g}" for value in values)
