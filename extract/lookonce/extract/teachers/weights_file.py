"""Reading a file of weights without running anything that is in it."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lookonce.shared.errors import TeacherError

WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "model_ema", "state_dict_ema", "module")
"""Keys under which training scripts put the parameters; the first one found is opened, again and again."""

ON_ALL = ("module.", "_orig_mod.")
"""Prefixes that wrappers (DataParallel, torch.compile) put on every name."""

PARTS = ("visual.", "trunk.", "backbone.")
"""Prefixes of the part that holds the vision trunk (CLIP's image tower, timm's model in it, DINO's backbone); the
rest is dropped."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named parameters of a safetensors file or a torch checkpoint, wrappers and prefixes taken off.

    Args:
        path: the file; which of the two it is, its first bytes say. Checkpoints are loaded weights-only.

    Returns:
        Name -> tensor as stored, on the CPU.

    Raises:
        TeacherError: no such file, unreadable, truncated, holding more than tensors, or holding none.
    """
    if not path.is_file():
        raise TeacherError(f"no weights file at {path}: give --teacher-weights a safetensors file or a checkpoint")
    try:
        with path.open("rb") as handle:
            head = handle.read(9)
        loaded: Any = safetensors.torch.load_file(path) if head[8:9] == b"{" else _read_checkpoint(path)
    except Exception as error:  # the readers raise half a dozen kinds; to the user they are one: this file is no good
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TeacherError(
            f"cannot read the weights file {path}: expected safetensors or a torch checkpoint of plain tensors, and "
            f"found it truncated, damaged or holding code ({type(error).__name__}: {reason:.200})"
        ) from error
    state = _unwrap(loaded)
    if not state:
        raise TeacherError(f"the weights file {path} holds no named tensors")
    return state


def _read_checkpoint(path: Path) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        # Released checkpoints often carry their script's arguments; a Namespace runs nothing when it is made.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(loaded: Any) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        return {}
    state = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    changed = True
    while changed and state:
        changed = False
        for prefix in ON_ALL:
            if all(name.startswith(prefix) for name in state):
                state, changed = {name.removeprefix(prefix): value for name, value in state.items()}, True
        for prefix in PARTS:
            if part := {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}:
                state, changed = part, True
    return state
