"""Names of the options of a run; imports no torch, so that ``train-student --help`` answers at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from lookonce.shared.errors import UsageError
from lookonce.shared.names import unknown_name

MaskName = Literal["attentive", "random", "hide-attentive"]
AlignmentName = Literal["dynamic", "layerwise"]
MixOrder = Literal["adapt-then-mix", "mix-then-adapt"]
AdapterName = Literal["linear", "norm-linear", "mlp", "mlp2"]
LossName = Literal["smooth-l1", "l2", "l1"]
TargetNorm = Literal["whiten", "none", "l2", "bn"]
PrecisionName = Literal["auto", "fp32", "bf16"]
DeviceName = Literal["auto", "cpu", "cuda"]
CheckName = Literal["first-use", "never"]
ReadaheadName = Literal["auto", "none", "advice"]
ParallelName = Literal["ddp", "fsdp"]
CheckpointName = Literal["whole", "sharded"]
ShuffleName = Literal["global", "block"]


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse an unknown name.

    Args:
        kind: kind of name, for the message, e.g. ``"adapter"``.
        name: the given name.
        known: the known names.

    Raises:
        UsageError: ``name`` is unknown; the message lists the known names.

    >>> require_known("loss", "l1", ("l1", "l2"))
    """
    names = tuple(known)
    if name not in names:
        raise UsageError(unknown_name(kind, name, names))
