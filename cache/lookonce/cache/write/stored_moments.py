"""Mean and standard deviation of tokens in the dtype that a cache stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import NumericalError
from lookonce.storage_schemas.arrays import MOMENT_ARRAYS
from lookonce.storage_schemas.manifest import Manifest


def with_stored_moments(
    values: Mapping[str, NDArray[Any]], manifest: Manifest, keys: Sequence[str], seed: int
) -> dict[str, NDArray[Any]]:
    """Arrays of samples, those of the moments in the stored dtype; as they are if the cache stores none.

    Args:
        values: arrays by name, of length ``len(keys)``; mean and standard deviation finite, of no fewer bits.
        manifest: of the cache to write.
        keys: of the samples.
        seed: augmentation seed, for the message.

    Raises:
        NumericalError: a value is too large for float16; names the first such sample.
    """
    if manifest.moments == "none":
        return dict(values)
    cast: dict[str, NDArray[Any]] = {}
    for name in MOMENT_ARRAYS:
        with np.errstate(over="ignore"):
            cast[name] = values[name].astype(manifest.array(name).numpy_dtype, copy=False)
        beyond = np.flatnonzero(~np.isfinite(cast[name]).reshape(len(keys), -1).all(axis=1))
        if len(beyond):
            raise NumericalError(
                f"sample {keys[beyond[0]]!r}, seed {seed}: the mean or standard deviation of a token is beyond 65504, "
                "the largest float16; nothing of this shard was kept. Take --moments float32, or none"
            )
    return {**values, **cast}
