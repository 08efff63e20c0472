"""Which tensors of a checkpoint are the weights of an architecture: wrappers and prefixes are found, not listed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

DEPTH = 6
"""How deep mappings may lie in each other."""
_AVERAGE = {"ema", "averaged", "average", "swa"}
_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The parameters of a model, as a file should hold them."""

    name: str
    """For errors."""
    tensors: Mapping[str, Tensor]
    """Name -> tensor of the wanted shape and type; on any device, meta too."""
    any_shape: frozenset[str] = frozenset()
    """Names whose shape may be another: position embeddings, which are interpolated."""
    may_lack: frozenset[str] = frozenset()
    """Names that a file need not hold."""
    beside: tuple[str, ...] = ()
    """Beginnings of names that a file may hold besides; they are left out."""

    def misfits(self, state: Mapping[str, Tensor]) -> list[str]:
        """What is missing, of another shape or too much, each in words; empty where all fits."""
        problems = [
            f"{name} should be {shape_text(wanted.shape)} and is "
            f"{shape_text(state[name].shape) if name in state else 'missing'}"
            for name, wanted in self.tensors.items()
            if (name not in state and name not in self.may_lack)
            or (name in state and name not in self.any_shape and state[name].shape != wanted.shape)
        ]
        extra = sorted(name for name in state if name not in self.tensors and not name.startswith(self.beside or "\0"))
        return problems + [f"{name}, {shape_text(state[name].shape)}, is not in the model" for name in extra]

    def _likeness(self, state: Mapping[str, Tensor]) -> int:
        wanted = self.tensors
        return sum(2 if value.shape == wanted[name].shape else 1 for name, value in state.items() if name in wanted)


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """One set of named tensors in a checkpoint."""

    label: str
    """Where it is: keys and prefix, joined by dots; empty for a file that holds nothing else."""
    state: Mapping[str, Tensor] = field(repr=False)
    """Parameter name -> tensor, the prefix taken off."""

    @property
    def is_average(self) -> bool:
        """Whether its name says that it is a moving average."""
        return bool(_AVERAGE & set(re.split(r"[^a-z0-9]+", self.label.lower())))

    @property
    def rank(self) -> int:
        """Moving averages first, as timm takes them; then teachers, which are the average in DINO and its kin."""
        if self.is_average:
            return 0
        return 1 if "teacher" in re.split(r"[^a-z0-9]+", self.label.lower()) else 2


def weight_sets(content: Any, architecture: Architecture) -> tuple[list[WeightSet], bool]:
    """The sets of tensors that fit an architecture, best first; without any, the one that comes closest.

    Args:
        content: what a checkpoint holds.
        architecture: what is wanted.

    Returns:
        The sets, in the order of their rank and then of the file, and whether they fit. Empty without tensors.
    """
    candidates = [one for path, state in _states(content) for one in _by_prefix(path, state, architecture)]
    fitting = [one for one in candidates if not architecture.misfits(one.state)]
    if fitting:
        return sorted(fitting, key=lambda one: one.rank), True
    closest = sorted(candidates, key=lambda one: (-architecture._likeness(one.state), one.rank))
    return closest[:1], False


def _by_prefix(path: Sequence[str], state: Mapping[str, Tensor], architecture: Architecture) -> Iterator[WeightSet]:
    """The state under each prefix below which most of the wanted names are; as it is where there is none."""
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
    """Every mapping that holds tensors, and every pickled module, with the keys that lead to it."""
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
    """Parameters and buffers of a pickled ``nn.Module``, of which loading left a mapping with its attributes."""
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
    """The first wanted tensor that holds no usable floats, in words; None where all do."""
    for name, wanted in architecture.tensors.items():
        value = state.get(name)
        if value is None or not wanted.is_floating_point():
            continue
        if not value.is_floating_point() or value.itemsize < 2 or value.layout is not torch.strided:
            kind = str(value.dtype).removeprefix("torch.")
            return f"{name} is of type {kind if value.layout is torch.strided else 'sparse ' + kind}"
    return None


def listed(labels: Sequence[str]) -> str:
    """Labels for a sentence."""
    shown = ", ".join(f"'{label}'" for label in labels[:_SHOWN])
    return shown + (f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else "")


def shape_text(shape: Sequence[int]) -> str:
    """``3x4``, for errors."""
    return "x".join(str(size) for size in shape) or "a single number"
