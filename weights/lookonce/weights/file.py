"""A file of weights: opened without running anything in it, and the weights of an architecture taken out of it."""

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
from lookonce.weights.checkpoint import HoldsCodeError, UnskippableError, load_checkpoint_content
from lookonce.weights.kinds import foreign_kind, is_safetensors, safetensors_shortfall
from lookonce.weights.selection import Architecture, WeightSet, listed, not_floating, weight_sets

IN_FOLDERS = (
    "student.safetensors", "model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)  # fmt: skip
"""Names that are looked for in a folder, first ones first: a run's, and a hub repository's."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one architecture."""

    state: Mapping[str, Tensor] = field(repr=False)
    """Parameter name -> tensor as stored, on the CPU; what the architecture lacks is left out only where it may be."""
    notes: tuple[str, ...]
    """What the user should know: which set of several was taken, under which keys, and what was converted."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """What a file holds."""

    path: Path
    """The file itself, also where a folder was given."""
    key: str
    """Which set of weights is wanted (``FILE#KEY``); empty for the best."""
    metadata: Mapping[str, str]
    """Of safetensors; empty for checkpoints."""
    content: Any = field(repr=False)
    """Tensors, nested as in the file."""
    notes: tuple[str, ...] = ()
    """What the user should know of how the file was found."""

    def fitting(self, architecture: Architecture, *, strict: bool = True) -> Weights:
        """The weights of an architecture: prefixes taken off; of several sets the moving average, or the one asked for.

        Args:
            architecture: what is wanted.
            strict: refuse weights that do not fit; otherwise those that come closest are returned for the caller to
                refuse.

        Raises:
            WeightsError: no tensors, none that fit, none under the wanted key, or values that are no usable floats.
        """
        found, fit = weight_sets(self._wanted(), architecture)
        if not found:
            raise WeightsError(f"the weights file {self.path} holds no named tensors; give the file of the weights")
        chosen = found[0]
        problems = [] if fit or not strict else architecture.misfits(chosen.state)
        if problems:
            others = f", and {len(problems) - 1} other parameters do not fit" if len(problems) > 1 else ""
            where = f" (its tensors under '{chosen.label}')" if chosen.label else ""
            raise WeightsError(
                f"the weights file {self.path}{where} does not fit {architecture.name}: {problems[0]}{others}; give "
                "weights of that architecture, or name the architecture that they are of"
            )
        self._require_floats(chosen, architecture)
        return Weights(state=chosen.state, notes=(*self.notes, *self._notes(chosen, found, architecture)))

    def _wanted(self) -> Any:
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
                "and integer tensors are no weights without their scales: give the floating-point weights"
            )

    def _notes(self, chosen: WeightSet, found: list[WeightSet], architecture: Architecture) -> list[str]:
        notes = []
        if len(found) > 1:
            why = ", the moving average, as timm does" if chosen.is_average else ", the teacher" * (chosen.rank == 1)
            others = [one.label or "the top level" for one in found[1:]]
            other = others[0] if found[1].label else "KEY"
            notes.append(
                f"{self.path} holds {len(found)} sets of weights that fit: taking '{chosen.label or 'the top level'}'"
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
                f"{self.path}: {bad[0]} and {len(bad) - 1} others hold NaN or infinity: the training had diverged"
            )
        return notes


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def open_weights(path: Path) -> WeightsFile:
    """Open a safetensors file or a torch checkpoint (loaded weights-only); its first bytes say which it is.

    Args:
        path: the file; ``FILE#KEY`` for one set of several; or a folder with one of ``IN_FOLDERS`` in it.

    Raises:
        WeightsError: no such file, or none of weights: the message says what it is and what to do.
        AccessError: the operating system does not give it out.
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
        reason = f"the folder holds {listed(others)}: give one of them"
    elif (path / "checkpoints").is_dir():
        reason = "it is the folder of a run that is not finished, which leaves its weights at its end: let it finish"
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
    except HoldsCodeError as error:
        raise WeightsError(
            f"cannot read the weights file {path}: it holds code that would run on loading ({error}); none of it was "
            "run: do not trust it, and take the weights from another place"
        ) from error
    except UnskippableError as error:
        raise WeightsError(
            f"cannot read the weights file {path}: beside weights it holds objects that cannot be skipped ({error}): "
            "where you trust it, save its state_dict alone with torch.save"
        ) from error
    except Exception as error:  # torch.load raises half a dozen kinds; to the user they are one
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
        return f"this machine's memory does not hold it ({text:.100}); close other programs, or take a larger machine"
    short = text.partition("Please file an issue")[0].partition("In PyTorch 2.6")[0]
    return (
        f"expected safetensors or a torch checkpoint, and found it truncated, damaged or of another kind "
        f"({type(error).__name__}: {short:.160}); fetch it again, or save its state_dict with torch.save"
    )
