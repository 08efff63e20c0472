"""``--lengthen``: a run trained further than it was planned, from its last checkpoint on, and what is said about it.

The learning rate of a step is a function of the run's length. A run of 10 epochs that is lengthened to 20 has come down
to the end of its cosine; from there on it follows the cosine of 20 epochs, which stands at half its height there. That
is useful (a warm restart) and not the same as 20 epochs from the start. The last step of the shorter run, if it was of
a smaller batch, stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookonce.shared.errors import CheckpointError, UsageError


def lengthened_document(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The config document of a run that goes on from a checkpoint: with what was lengthened so far, if anything was.

    Args:
        path: of the checkpoint, for messages.
        old: the checkpoint's config document.
        new: the document of the run as it is wanted now.
        step: steps done.

    Returns:
        ``new``, with ``lengthened``: a list of ``{"at_step": ..., "epochs": ..., "to_epochs": ...}``.

    Raises:
        CheckpointError: the epochs differ and ``--lengthen`` is not given.
        UsageError: ``--epochs`` would make the run shorter.
    """
    before, now, history = old["epochs"], new["epochs"], list(old.get("lengthened", ()))
    if now != before and not new["lengthen"]:
        more = (
            "to train it further, from its last checkpoint on, add --lengthen; for a run of that length from the start"
            if now > before
            else "give that number; for a shorter run"
        )
        raise CheckpointError(f"{path}: the run has --epochs {before}, now {now}; {more} choose another --out")
    if now < before:
        raise UsageError(f"--lengthen: --epochs {now} is fewer than the {before} epochs of the run in {new['out']}")
    if now > before:
        history.append({"at_step": step, "epochs": before, "to_epochs": now})
    return {**new, "lengthened": history} if history else dict(new)


def require_checkpoint_to_lengthen(run: Path) -> None:
    """Refuse to lengthen a run of which no checkpoint is there.

    Raises:
        UsageError: always; it says whether a run is there at all.
    """
    if (run / "student.safetensors").exists():
        raise UsageError(
            f"--lengthen: {run} holds a student but no checkpoint, so the run cannot go on; choose another --out for a "
            "new run"
        )
    raise UsageError(f"--lengthen: {run} holds no run yet; leave --lengthen out to begin one")


def lengthening_note(document: Mapping[str, Any], step: int, last_rate: float, next_rate: float) -> str | None:
    """What the user should know of a run that is lengthened at the step where it stands; None for any other.

    Args:
        document: from :func:`lengthened_document`.
        step: steps done.
        last_rate: learning rate of the last of them.
        next_rate: learning rate of the step to come.
    """
    history = document.get("lengthened", ())
    if not history or history[-1]["at_step"] != step:
        return None
    before, now = history[-1]["epochs"], history[-1]["to_epochs"]
    return (
        f"--lengthen: a run of {before} becomes one of {now} epochs. From step {step} on, the learning rate follows "
        f"the schedule of {now} epochs: it was {last_rate:.2e} in the last step and is {next_rate:.2e} in the next, so "
        f"the result is not that of {now} epochs from the start. student.safetensors is replaced at the end; copy it "
        "to keep the present one"
    )
