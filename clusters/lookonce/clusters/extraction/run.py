"""Stage one with the executor of its config: the workers of a Ray cluster, or this process."""

from __future__ import annotations

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.run import run_extraction
from lookonce.extract.summary import ExtractionSummary


def extract_features(config: ExtractionConfig, *, show_progress: bool = True) -> ExtractionSummary:
    """Extract the shards that the cache at ``config.out`` lacks.

    Args:
        config: of the extraction, with its executor; the executor does not change a byte of the cache.
        show_progress: whether progress is shown on standard error.

    Raises:
        UsageError: no cluster at ``config.ray_address``, or more workers than it has CPUs.
        SourceError: none of the images can be read.
        LookonceError: see ``run_extraction`` and ``RayExecutor``; committed shards stay valid.
    """
    if config.executor == "inline":  # must work without Ray
        return run_extraction(config, show_progress=show_progress)
    from lookonce.clusters.extraction.executor import RayExecutor

    return run_extraction(config, executor=RayExecutor(), show_progress=show_progress)
