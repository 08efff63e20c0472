"""What an extraction did, and how it is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lookonce.shared.printing import Result, bytes_text, count_text

BUSY_MACHINE = 0.1
"""Share of the teacher's time spent waiting for a CPU core above which the text mentions it."""

MOST_SEEDS = 12
"""Seeds that the text lists."""


@dataclass(frozen=True)
class ExtractionSummary(Result):
    """What an extraction did, and what the cache contains now."""

    cache: str
    fingerprint: str
    samples: int
    seeds: tuple[int, ...]
    shards: int
    """Shards of all requested seeds."""
    shards_written: int
    """Shards written by this run; the others were committed before."""
    views_written: int
    """Views written by this run, without the unreadable ones."""
    views_copied: int
    """Part of ``views_written`` that was copied from the cache of ``--reuse``."""
    holes: int
    """Unreadable samples over all requested seeds."""
    bytes: int
    """Bytes of all shards of the requested seeds."""
    seconds: float
    views_per_second: float
    """Views that the teacher encoded per second; 0 if all were copied."""
    time_share: dict[str, float]
    """Shares of the teacher threads' time, 0..1: ``decode`` (waiting for views), ``teacher`` (teacher and encoding) and
    ``write`` (waiting for the disk)."""
    teacher_share: dict[str, float]
    """Shares of the ``teacher`` part of that time: ``forward``, ``core_wait`` (waiting for a CPU core) and ``rest``
    (encoding, copying)."""
    efficiency: float | None
    """Rate relative to the bare forward pass, 0..1; None if the teacher computed nothing."""
    saturated_share: float
    """Share of target values outside the precision's range, 0..1, of the shard with the largest share."""
    signals: dict[str, list[float]]
    """Lowest and highest mean of a shard, by name: ``feature_norm`` (L2 norm of a raw token) and ``importance_entropy``
    (nats). Outliers reveal wrong features."""

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return {**asdict(self), "seeds": list(self.seeds)}

    def text(self) -> str:
        """Lines for people."""
        holes = f"{count_text(self.holes, 'hole')} (unreadable images)"
        lines = [
            self._progress(),
            f"cache        {self.cache}",
            f"fingerprint  {self.fingerprint}",
            f"content      {count_text(self.samples, 'sample')} per seed ({self._seeds()}); {holes}",
            f"size         {bytes_text(self.bytes)}",
        ]
        if self.signals:
            (least, most), (sharpest, flattest) = self.signals["feature_norm"], self.signals["importance_entropy"]
            lines.append(
                f"signals      per shard: feature norm {least:.4g} to {most:.4g}, entropy of importance {sharpest:.3g} "
                f"to {flattest:.3g} nats, at most {self.saturated_share:.2%} of values saturated"
            )
        if self.time_share:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in self.time_share.items())
            lines.append(f"time         {shares}{_teacher_time(self.teacher_share)}")
        return "\n".join(lines)

    def _progress(self) -> str:
        if not self.shards_written:
            return f"nothing to do: the cache has all {self.shards} shards"
        rate = f"{self.views_per_second:.1f} views/s"
        if not self.views_copied:
            views = f"{self.views_written} views at {rate}"
        elif self.views_copied < self.views_written:
            views = f"{self.views_written} views ({self.views_copied} of them copied, the others at {rate})"
        else:
            views = f"{self.views_written} views, all copied"
        return f"{self.shards_written} of {self.shards} shards written, {views}"

    def _seeds(self) -> str:
        more = f", ... ({len(self.seeds)} in all)" if len(self.seeds) > MOST_SEEDS else ""
        return f"{'seed' if len(self.seeds) == 1 else 'seeds'} {', '.join(map(str, self.seeds[:MOST_SEEDS]))}{more}"


def _teacher_time(shares: Mapping[str, float]) -> str:
    """How the teacher's part of the time was spent; names a machine that has too few free cores."""
    if not shares:
        return ""
    if shares["core_wait"] < BUSY_MACHINE:
        return f" ({shares['forward']:.0%} of the teacher's in its forward pass)"
    return (
        f" ({shares['forward']:.0%} of the teacher's in its forward pass, {shares['core_wait']:.0%} waiting for a CPU "
        "core: other threads or programs kept the cores busy)"
    )
