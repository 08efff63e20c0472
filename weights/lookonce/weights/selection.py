"""Selects the weights of an architecture among the tensors of a checkpoint, in any wrapper and with any prefix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

DEPTH = 6
"""Greatest depth of nested mappings."""
_AVERAGE = {"ema", "averaged", "average", "swa"}
_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The parameters that a file should contain."""

    name: str
    """Name of the architecture, for errors."""
    tensors: Mapping[str, Tensor]
    """Name -> tensor of the expected shape and type, on any device, also meta."""
    any_shape: frozenset[str] = frozenset()
    """Names whose shape may differ: position embeddings, which are interpolated."""
    may_lack: frozenset[str] = frozenset()
    """Names that may be missing in a file."""
    beside: tuple[str, ...] = ()
    """Prefixes of other names that a file may contain; they are ignored."""

    def misfits(self, state: Mapping[str, Tensor]) -> list[str]:
        """Sentences about missing tensors, wrong shapes and unexpected tensors; empty if all tensors fit."""
        problems = [
            f"{name} should be {shape_text(wanted.shape)} and is "
            f"{shape_text(state[name].shape) if name in state else 'missing'}"
            for name, wanted in self.tensors.items()
            if (name not in state and name not in self.may_lack)
            or (name in state and name not in self.any_shape and state[name].shape != wanted.shape)
        ]
        extra = sorted(name for name in state if name not in self.tensors and not name.startswith(self.beside or "\0"))
        return problems + [f"{name}, {shape_text(state[name].shape)}, is not in the model" for name in extra]

    def similarity(self, state: Mapping[str, Tensor]) -> int:
        """Number of matching names, counted twice if the shape matches too."""
        wanted = self.tensors
        return sum(2 if value.shape == wanted[name].shape else 1 for name, value in state.items() if name in wanted)


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """One set of named tensors in a checkpoint."""

    label: str
    """Keys and prefix of the set, joined by dots; empty at the top level."""
    state: Mapping[str, Tensor] = field(repr=False)
    """Parameter name without the prefix -> tensor."""

    @property
    def is_average(self) -> bool:
        """Whether the label names a moving average."""
        return bool(_AVERAGE & set(re.split(r"[^a-z0-9]+", self.label.lower())))

    @property
    def rank(self) -> int:
        """Order of preference: moving averages first, as in timm, then teachers, which are the average in DINO."""
        if self.is_average:
            return 0
        return 1 if "teacher" in re.split(r"[^a-z0-9]+", self.label.lower()) else 2


def weight_sets(content: Any, architecture: Architecture) -> tuple[list[WeightSet], bool]:
    """The sets of tensors that fit an architecture, best first; if none fits, the closest set.

    Args:
        content: content of a checkpoint.
        architecture: the architecture.

    Returns:
        The sets, by rank and then in the order of the file, and whether they fit. Empty without tensors.
    """
    candidates = [one for path, state in _states(content) for one in _by_prefix(path, state, architecture)]
    fitting = [one for one in candidates if not architecture.misfits(one.state)]
    if fitting:
        return sorted(fitting, key=lambda one: one.rank), True
    closest = sorted(candidates, key=lambda one: (-architecture.similarity(one.state), one.rank))
    return closest[:1], False


def _by_prefix(path: Sequence[str], state: Mapping[str, Tensor], architecture: Architecture) -> Iterator[WeightSet]:
    """The tensors under each prefix with most of the expected names; all tensors if there is no such prefix."""
    prefixes: Counter[str] = Counter()
    for name in state:
        for start in (0, *(match.end() for match in re.finditer(r"\.", name))):
            if name[start:] in architecture.tensors:
                prefixes[name[:start]] += 1
    likely = [prefix for prefix, count in prefixes.items() if 2 * count >= len(architecture.tensors)]
    for prefix in likely or [prefixes.most_common(1)[0][0] if prefixes else ""]:
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        yield WeightSet(label=".".join([*path, *filter(None, [prefix.rstrip(".")])]), state=part)


def _states(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping with tensors, and every pickled module, with the path of keys to it."""
    if len(path) > DEPTH:
        return
    if parameters := dict(_module_state(content)):
        yield path, parameters
    elif isinstance(content, Mapping):
        if own := {str(key): value for key, value in content.items() if isinstance(value, Tensor)}:
            yield path, own
        for key, value in content.items():
            yield from _states(value, (*path, str(key)))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            if not isinstance(value, Tensor):
                yield from _states(value, (*path, str(number)))


def _module_state(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a pickled ``nn.Module``, which is loaded as a mapping with its attributes."""
    attributes = getattr(content, "__dict__", {})
    if not isinstance(attributes.get("_modules"), Mapping):
        return
    passing = attributes.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, value in (attributes.get(kind) or {}).items():
            if isinstance(value, Tensor) and not (kind == "_buffers" and name in passing):
                yield prefix + name, value
    for name, module in attributes["_modules"].items():
        yield from _module_state(module, f"{prefix}{name}.")


def not_floating(state: Mapping[str, Tensor], architecture: Architecture) -> str | None:
    """A sentence about the first expected tensor without usable floats; None if there is none."""
    for name, wanted in architecture.tensors.items():
        value = state.get(name)
        if value is None or not wanted.is_floating_point():
            continue
        if not value.is_floating_point() or value.itemsize < 2 or value.layout is not torch.strided:
            kind = str(value.dtype).removeprefix("torch.")
            return f"{name} is of type {kind if value.layout is torch.strided else 'sparse ' + kind}"
    return None


def listed(labels: Sequence[str]) -> str:
    """Labels as part of a sentence."""
    shown = ", ".join(f"'{label}'" for label in labels[:_SHOWN])
    return shown + (f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else "")


def shape_text(shape: Sequence[int]) -> str:
    """``3x4``, for errors."""
    return "x".join(str(size) for size in shape) or "a single number"
