"""Stochastic depth per sample of a step, the same for any split of a batch over processes.

Each residual branch of each sample is dropped with a probability that grows linearly from 0 at the first block to the
drop path rate at the last (Huang et al., arXiv 1603.09382). Kept branches are scaled by 1 / (1 - probability).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.randomness import random_uniform

STOCHASTIC_DEPTH_VERSION = 1
"""Increases whenever the same run seed and step would drop other branches."""

BRANCHES = 2
"""Residual branches of a block: attention, then MLP."""


def branch_scales(
    drop_path: float, *, depth: int, run_seed: int, step: int, samples: int, part: slice = slice(None)
) -> NDArray[np.float32]:
    """Factors on the residual branches of samples of a global batch: 0 for a dropped branch.

    Args:
        drop_path: probability at the last block, 0 <= p < 1.
        depth: blocks of the student.
        run_seed: the run's seed.
        step: 0-based.
        samples: samples of the global batch.
        part: the wanted samples.

    Returns:
        float32 (depth, 2, B).

    >>> whole = branch_scales(0.5, depth=3, run_seed=0, step=7, samples=4)
    >>> bool((whole[..., 1:3] == branch_scales(0.5, depth=3, run_seed=0, step=7, samples=4, part=slice(1, 3))).all())
    True
    """
    words = random_uniform(samples * depth * BRANCHES, "stochastic-depth", STOCHASTIC_DEPTH_VERSION, run_seed, step)
    uniform = words.reshape(samples, depth, BRANCHES)[part].transpose(1, 2, 0)
    dropped = np.linspace(0, drop_path, depth)[:, None, None]
    return np.where(uniform >= dropped, 1 / (1 - dropped), 0.0).astype(np.float32)
