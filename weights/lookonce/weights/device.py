"""The torch device of ``--device``."""

from __future__ import annotations

import torch

from lookonce.shared.errors import UsageError


def resolve_device(device: str, local_rank: int | None = None) -> torch.device:
    """The device of ``auto``, ``cpu`` or ``cuda``; ``auto`` is the GPU if there is one.

    Args:
        device: value of ``--device``.
        local_rank: number of this process among those of its machine, each with a GPU of its own; None for a single
            process.

    Raises:
        UsageError: CUDA is requested, but torch finds no CUDA device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if local_rank is None else torch.device("cuda", local_rank)
