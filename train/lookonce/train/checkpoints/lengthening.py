"""``--lengthen``: trains a run further than planned, from its last checkpoint on.

The learning rate of a step is a function of the run's length. A run of 10 epochs ends at the minimum of its cosine.
Lengthened to 20 epochs, it continues on the cosine of 20 epochs, which is at half its height at that step: a warm
restart, not the same as 20 epochs from the start. The last step of the shorter run, which may have a smaller batch, is
not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookonce.shared.errors import CheckpointError, UsageError


def lengthened_document(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The config document of a resumed run, with the history of ``--lengthen``.

    Args:
        path: the checkpoint, for messages.
        old: the checkpoint's config document.
        new: the config document of this start.
        step: steps done.

    Returns:
        ``new``; for a lengthened run with ``lengthened``: a list of ``at_step``, ``epochs`` and ``to_epochs``.

    Raises:
        CheckpointError: the epochs differ and ``--lengthen`` is not given.
        UsageError: ``--epochs`` is lower than before.
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
    """Refuse to lengthen a run that has no checkpoint.

    Raises:
        UsageError: always; the message says whether the folder contains a run.
    """
    if (run / "student.safetensors").exists():
        raise UsageError(
            f"--lengthen: {run} contains a student but no checkpoint, so the run cannot resume; choose another --out "
            "for a new run"
        )
    raise UsageError(f"--lengthen: {run} contains no run yet; leave --lengthen out to start one")


def lengthening_note(document: Mapping[str, Any], step: int, last_rate: float, next_rate: float) -> str | None:
    """Note for the user on a run that this start lengthens; None for other runs.

    Args:
        document: from :func:`lengthened_document`.
        step: steps done.
        last_rate: learning rate of the last step done.
        next_rate: learning rate of the next step.
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
