"""Real images without a download: scikit-learn's handwritten digits, written as class folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32
"""Side of the PNGs in pixels; the digits themselves are 8 x 8, 17 grey levels."""

TEST_SHARE = 5
"""The last 1 in 5 digits of the data set are test images."""


def write_digits(folder: Path) -> tuple[int, int]:
    """Write ``train/CLASS/NUMBER.png`` and ``test/CLASS/NUMBER.png`` below a folder.

    Args:
        folder: an empty or new folder.

    Returns:
        Number of training and of test images.
    """
    digits: Any = load_digits()
    count = len(digits.images)
    first_test = count - count // TEST_SHARE
    for number, (grey, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "train" if number < first_test else "test"
        file = folder / split / f"digit-{label}" / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(grey * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file)
    return first_test, count - first_test
