"""``train-student``: train a student from a cache; the teacher is never run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from lookonce.clusters.training.launcher_options import LauncherOptions
from lookonce.commands.command import CommonOptions, finish, parse_arguments
from lookonce.commands.early_checks import announce, check_training
from lookonce.commands.recipe_arguments import with_recipe
from lookonce.shared.errors import UsageError
from lookonce.shared.freed_memory import keep_freed_memory
from lookonce.train.config import TrainingConfig

DESCRIPTION = """Train a student vision transformer on the visible patches of cached views, so that its features align
with the teacher's. The teacher is never run. Run it again with the same arguments to go on from the newest
checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Options(TrainingConfig, LauncherOptions, CommonOptions):
    """Flags of train-student."""

    recipe: str | None = None
    """Take the defaults of a recipe, such as maskalign-b-clip-b16; other flags go over it, an unknown one lists all."""
    sweep: Path | None = None
    """Train several students in one pass over the caches: a TOML file with a [[run]] for each, its name and the flags
    it changes (student, mask, adapter, base_lr ...); each run has a folder of that name below --out."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        TrainingConfig.__post_init__(self)
        LauncherOptions.__post_init__(self)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    options: Options = parse_arguments(
        Options, prog="train-student", description=DESCRIPTION, arguments=arguments, expand=with_recipe
    )
    config = TrainingConfig(**{field.name: getattr(options, field.name) for field in fields(TrainingConfig)})

    command = shlex.join(["train-student", *(sys.argv[1:] if arguments is None else arguments)])

    def work() -> Mapping[str, Any]:
        check_training(config, options.sweep)
        if options.sweep is not None and options.launcher == "ray":
            raise UsageError("--sweep trains its students on one device: give it without --launcher ray")
        if options.launcher == "ray":
            from lookonce.clusters.training.launch import train_on_ray

            return train_on_ray(config, options, command)
        announce(f"training {_students(options)} from {', '.join(map(str, config.shards))} to {config.out}")
        from lookonce.weights.device import resolve_device

        keep_freed_memory(resolve_device(config.device).type)
        if options.sweep is not None:
            from lookonce.train.sweep.lockstep import train_sweep

            return train_sweep(config, options.sweep, command=command).document()
        from lookonce.train.run import train_student

        return train_student(config, command=command).document()

    finish(work, options, _summary if options.sweep is None else _sweep_summary)


def _students(options: Options) -> str:
    return options.student if options.sweep is None else f"the students of {options.sweep}"


def _sweep_summary(result: Mapping[str, Any]) -> str:
    parts = [f"{len(result['runs'])} runs, which took turns: the images/s of each count the time of all"]
    for name, run in result["runs"].items():
        parts.append(f"{name}: {_summary(run)}" + (f"\nerror    {run['error']}" if run["error"] else ""))
    return "\n".join(parts)


def _summary(result: Mapping[str, Any]) -> str:
    reached = f"step {result['steps']} of {result['total_steps']}"
    if result["final_loss"] is not None:
        reached += f", loss {result['first_loss']:.4f} -> {result['final_loss']:.4f}"
    if result["images_per_second"] is not None:
        waited = f"{result['input_wait_share']:.1%} of the time waiting for input"
        reached += f", {result['images_per_second']:.1f} images/s, {waited}"
    lines = [reached, f"run      {result['run']}"]
    if result["student_file"]:
        lines.append(f"student  {result['student_file']}")
    else:
        lines.append("--max-steps ended this call before the schedule; to resume, raise it or leave it out")
    if result["note"]:
        lines.append(f"note     {result['note']}")
    return "\n".join(lines)
