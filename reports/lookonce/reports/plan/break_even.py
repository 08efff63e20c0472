"""Whether a cache saves time: the teacher's time once per view against once per step, and the free disk.

Cached, the teacher runs seeds x images times; online, epochs x experiments x images times. With as many seeds as
epochs and one experiment nothing is saved, whatever the teacher costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lookonce.shared.printing import bytes_text


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """Cost of a cache against that of an online teacher, on the same workers."""

    images: int
    epochs: int
    """Epochs of one experiment."""
    experiments: int
    """Runs that would share the cache."""
    views_left: int
    """Views that are still to be extracted: seeds times images for a new cache."""
    extraction_seconds: float
    """What extracting them takes, once."""
    online_seconds: float
    """What an online teacher adds to one epoch."""
    bytes_left: int
    """Bytes still to be written."""
    bytes_free: int
    """Bytes that the disk has left."""

    @property
    def epochs_in_all(self) -> int:
        """Epochs of all experiments."""
        return self.epochs * self.experiments

    @property
    def forward_ratio(self) -> float:
        """Teacher forward passes online for each one that the cache needs."""
        return self.epochs_in_all * self.images / self.views_left if self.views_left else math.inf

    @property
    def saved_seconds(self) -> float:
        """Saved over all experiments; negative when the cache costs more."""
        return self.online_seconds * self.epochs_in_all - self.extraction_seconds

    @property
    def break_even_epochs(self) -> int:
        """The first epoch after which one experiment with the cache has taken less than one without."""
        return math.floor(self.extraction_seconds / self.online_seconds) + 1

    @property
    def break_even_experiments(self) -> int:
        """How many experiments of ``epochs`` epochs it takes."""
        return math.floor(self.extraction_seconds / (self.online_seconds * self.epochs)) + 1

    @property
    def reasons_against(self) -> list[str]:
        """Why not to make this cache; empty when it pays and has room."""
        reasons = []
        if self.forward_ratio <= 1:
            online = self.epochs_in_all * self.images
            reasons.append(
                f"the teacher looks {self.views_left:,} times for the cache and {online:,} times online (epochs x "
                "experiments x images), so nothing is saved: use fewer seeds, more epochs or more experiments"
            )
        elif self.saved_seconds <= 0:
            reasons.append("extracting, its decoding and writing included, takes longer than an online teacher in all")
        if self.bytes_left > self.bytes_free:
            reasons.append(
                f"{bytes_text(self.bytes_left)} are to be written and the disk has {bytes_text(self.bytes_free)} free: "
                "take fewer seeds, bits (--precision) or tokens (--tokens), or another disk"
            )
        return reasons
