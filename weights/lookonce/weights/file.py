"""Opens a file of weights without running code from it, and selects the weights of an architecture."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lookonce.shared.errors import WeightsError
from lookonce.shared.faults.os_errors import access_error
from lookonce.weights.checkpoint import ContainsCodeError, UnskippableError, load_checkpoint_content
from lookonce.weights.kinds import foreign_kind, is_safetensors, safetensors_shortfall
from lookonce.weights.selection import Architecture, WeightSet, listed, not_floating, weight_sets

IN_FOLDERS = (
    "student.safetensors", "model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)  # fmt: skip
"""File names that are searched in a folder, in this order: those of a run, then of a hub repository."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one architecture."""

    state: Mapping[str, Tensor] = field(repr=False)
    """Parameter name -> tensor as stored, on the CPU."""
    notes: tuple[str, ...]
    """Notes for the user: the selected set of several, its keys, and conversions."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Content of a file of weights."""

    path: Path
    """The file, also if a folder was given."""
    key: str
    """Key of the requested set of weights (``FILE#KEY``); empty for the best set."""
    metadata: Mapping[str, str]
    """Metadata of a safetensors file; empty for a checkpoint."""
    content: Any = field(repr=False)
    """Tensors, nested as in the file."""
    notes: tuple[str, ...] = ()
    """Notes for the user about the choice of the file."""

    def fitting(self, architecture: Architecture, *, strict: bool = True) -> Weights:
        """The weights of an architecture without prefixes. Of several sets, the moving average or the set of ``key``.

        Args:
            architecture: the architecture.
            strict: refuse weights that do not fit; otherwise the closest weights are returned, and the caller checks
                them.

        Raises:
            WeightsError: there are no tensors, none fit, none have the key, or values are not usable floats.
        """
        found, fit = weight_sets(self._requested(), architecture)
        if not found:
            raise WeightsError(f"the weights file {self.path} contains no named tensors; give the file of the weights")
        chosen = found[0]
        problems = [] if fit or not strict else architecture.misfits(chosen.state)
        if problems:
            others = f", and {len(problems) - 1} other parameters do not fit" if len(problems) > 1 else ""
            where = f" (its tensors under '{chosen.label}')" if chosen.label else ""
            raise WeightsError(
                f"the weights file {self.path}{where} does not fit {architecture.name}: {problems[0]}{others}; give "
                "weights of that architecture, or name the architecture of these weights"
            )
        self._require_floats(chosen, architecture)
        return Weights(state=chosen.state, notes=(*self.notes, *self._notes(chosen, found, architecture)))

    def _requested(self) -> Any:
        """The content, or the part of it under ``key``."""
        part = self.content
        for key in self.key.split(".") if self.key else ():
            if isinstance(part, Mapping) and key in part:
                part = part[key]
            elif isinstance(part, Mapping) and any(str(name).startswith(f"{key}.") for name in part):
                part = {
                    name.removeprefix(f"{key}."): value for name, value in part.items() if name.startswith(f"{key}.")
                }
            else:
                keys = listed([str(name) for name in part]) if isinstance(part, Mapping) else "no keys"
                raise WeightsError(f"the weights file {self.path} has nothing under '{self.key}': found {keys}")
        return part

    def _require_floats(self, chosen: WeightSet, architecture: Architecture) -> None:
        wrong = not_floating(chosen.state, architecture)
        if wrong is not None:
            raise WeightsError(
                f"the weights file {self.path}: {wrong}: expected floating-point numbers of 16 bits or more; quantised "
                "and integer tensors are not usable without their scales: give the floating-point weights"
            )

    def _notes(self, chosen: WeightSet, found: list[WeightSet], architecture: Architecture) -> list[str]:
        notes = []
        if len(found) > 1:
            why = ", the moving average, as timm does" if chosen.is_average else ", the teacher" * (chosen.rank == 1)
            others = [other_set.label or "the top level" for other_set in found[1:]]
            other = others[0] if found[1].label else "KEY"
            notes.append(
                f"{self.path} has {len(found)} sets of weights that fit: taking '{chosen.label or 'the top level'}'"
                f"{why}, not {listed(others)} ({self.path.name}#{other} takes another)"
            )
        elif chosen.label:
            notes.append(f"{self.path}: the weights are those under '{chosen.label}'")
        kinds = {chosen.state[name].dtype for name in architecture.tensors if name in chosen.state}
        coarse = sorted(str(kind).removeprefix("torch.") for kind in kinds if kind.is_floating_point)
        if coarse and coarse != ["float32"]:
            notes.append(f"{self.path}: weights stored as {', '.join(coarse)} are converted to float32")
        bad = [name for name in architecture.tensors if name in chosen.state and not _is_finite(chosen.state[name])]
        if bad:
            notes.append(
                f"{self.path}: {bad[0]} contains NaN or infinity, as {len(bad)} of {len(architecture.tensors)} "
                "parameters do: the training had diverged"
            )
        return notes


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def open_weights(path: Path) -> WeightsFile:
    """Open a safetensors file or a torch checkpoint (loaded weights-only); its first bytes decide.

    Args:
        path: the file; ``FILE#KEY`` for one set of several; or a folder that contains one of ``IN_FOLDERS``.

    Raises:
        WeightsError: the file is missing or contains no weights; the message says what it is.
        AccessError: the file cannot be accessed.
    """
    file, key = _with_key(path)
    file, notes = _in_folder(file)
    if not file.is_file():
        raise WeightsError(f"no weights file at {file}: found no file there; give a safetensors file or a checkpoint")
    try:
        foreign = foreign_kind(file)
        if foreign is None:
            metadata, content = _content(file)
            return WeightsFile(path=file, key=key, metadata=metadata, content=content, notes=notes)
    except OSError as error:
        raise access_error(error, file) from error
    raise WeightsError(f"cannot read the weights file {file}: {foreign}")


def _with_key(path: Path) -> tuple[Path, str]:
    text = os.fspath(path)
    if path.exists() or "#" not in text:
        return path, ""
    file, _, key = text.rpartition("#")
    return Path(file), key


def _in_folder(path: Path) -> tuple[Path, tuple[str, ...]]:
    if not path.is_dir():
        return path, ()
    there = [name for name in IN_FOLDERS if (path / name).is_file()]
    if there:
        beside = f" (not {', '.join(there[1:])})" if there[1:] else ""
        return path / there[0], (f"taking {path / there[0]}{beside}",)
    others = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".pth", ".pt", ".bin"))
    if len(others) == 1:
        return path / others[0], (f"taking {path / others[0]}",)
    if (path / ".metadata").is_file():
        reason = (
            "it is a distributed checkpoint (torch.distributed.checkpoint): convert it to one file with torch's "
            "dcp_to_torch_save"
        )
    elif others:
        reason = f"the folder contains {listed(others)}: give one of them"
    elif (path / "checkpoints").is_dir():
        reason = "it is the folder of an unfinished run, which writes its weights at the end: let it finish"
    else:
        reason = "it is a folder without weights: give a safetensors file or a checkpoint"
    raise WeightsError(f"no weights file at {path}: {reason}")


def _content(path: Path) -> tuple[Mapping[str, str], Any]:
    with path.open("rb") as handle:
        head = handle.read(9)
    if is_safetensors(head):
        return _safetensors(path)
    try:
        return {}, load_checkpoint_content(path)
    except (OSError, MemoryError):
        raise
    except ContainsCodeError as error:
        raise WeightsError(
            f"cannot read the weights file {path}: it contains code that would run on loading ({error}); none of it "
            "was run: do not trust it, and take the weights from another source"
        ) from error
    except UnskippableError as error:
        raise WeightsError(
            f"cannot read the weights file {path}: beside weights it has objects that cannot be skipped ({error}): "
            "if you trust it, save its state_dict alone with torch.save"
        ) from error
    except Exception as error:  # torch.load raises many types
        raise WeightsError(f"cannot read the weights file {path}: {_reason(error)}") from error


def _safetensors(path: Path) -> tuple[Mapping[str, str], Any]:
    short = safetensors_shortfall(path)
    if short is None:
        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            short = str(error)
    raise WeightsError(
        f"cannot read the weights file {path}: expected a safetensors file, found one that is truncated or damaged "
        f"({short}); fetch it again"
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" in text:
        return (
            "it was pickled by a protocol that torch does not load safely: save it again with torch.save and its "
            "default protocol, or as safetensors"
        )
    if "allocate memory" in text or "out of memory" in text.lower():
        return f"this machine has too little memory for it ({text:.100}); close other programs, or use a larger machine"
    short = text.partition("Please file an issue")[0].partition("In PyTorch 2.6")[0]
    return (
        f"expected safetensors or a torch checkpoint, and found it truncated, damaged or of another kind "
        f"({type(error).__name__}: {short:.160}); fetch it again, or save its state_dict with torch.save"
    )
