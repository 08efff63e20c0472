"""Seeds the global random generators for code of other libraries that draws from them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator

import numpy as np
import torch

from lookonce.shared.randomness import random_words


@contextlib.contextmanager
def seeded_generators(*purpose: str | int) -> Generator[None, None, None]:
    """Seed the global generators of Python, numpy and torch by a purpose; the CPU's are restored at the end.

    timm's augmentation and mixing and stochastic depth draw from them. Not for threads: the generators belong to the
    process.

    >>> with seeded_generators("doctest"):
    ...     first = random.random()
    >>> with seeded_generators("doctest"):
    ...     first == random.random()
    True
    """
    words = random_words(3, *purpose)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - timm draws from it
    with torch.random.fork_rng(devices=[]):
        random.seed(int(words[0]))
        np.random.seed(int(words[1] >> np.uint64(32)))  # noqa: NPY002
        torch.manual_seed(int(words[2] >> np.uint64(1)))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
