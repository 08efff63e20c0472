"""Stage one by the executor that its config names: the workers of a Ray cluster, or this process."""

from __future__ import annotations

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.run import ExtractionSummary, run_extraction


def extract_features(config: ExtractionConfig, *, show_progress: bool = True) -> ExtractionSummary:
    """Extract what the cache at ``config.out`` still lacks.

    Args:
        config: what to extract, and by which executor; the cache is the same, byte for byte, whichever it is.
        show_progress: whether progress is drawn on standard error.

    Raises:
        UsageError: no cluster at ``config.ray_address``, or more workers than it has CPUs.
        SourceError: not one of the images can be read.
        LookonceError: see ``run_extraction`` and ``RayExecutor``; what was committed stays valid.
    """
    if config.executor == "inline":  # works on machines without Ray
        return run_extraction(config, show_progress=show_progress)
    from lookonce.clusters.extraction.executor import RayExecutor

    return run_extraction(config, executor=RayExecutor(), show_progress=show_progress)
