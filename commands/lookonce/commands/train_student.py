"""``train-student``: train a student from a cache; the teacher is never run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import tyro

from lookonce.clusters.training.launcher_options import LauncherOptions
from lookonce.commands.catalogue_commands.cache_names import cache_folder
from lookonce.commands.command import CommonOptions, finish, parse_arguments
from lookonce.commands.early_checks import announce, check_training, check_writable
from lookonce.shared.errors import UsageError
from lookonce.shared.freed_memory import keep_freed_memory
from lookonce.shared.printing import Result
from lookonce.train.config import TrainingConfig
from lookonce.train.recipes import recipe_config

DESCRIPTION = """Train a student vision transformer on the visible patches of cached views, so that its features align
with the teacher's. The teacher is never run. Run it again with the same arguments to resume from the newest
checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of train-student."""

    training: TrainingConfig
    processes: LauncherOptions = field(default_factory=LauncherOptions)
    recipe: str | None = None
    """Take the defaults of a recipe, such as maskalign-b-clip-b16; other flags override it, an unknown name lists all
    recipes."""
    sweep: Path | None = None
    """Train several students in one pass over the caches: a TOML file with a [[run]] for each, its name and the flags
    it changes (student, mask, adapter, base_lr ...); each run has a folder of that name below --out."""


def recipe_defaults(arguments: Sequence[str]) -> Options | None:
    """The options of the recipe that the arguments name; None if they name none.

    Args:
        arguments: as typed; caches and folder of the run remain required.

    Raises:
        UsageError: no such recipe.

    >>> recipe_defaults(["--recipe", "maskalign-l-clip-b16"]).training.loss_scale
    2.0
    >>> recipe_defaults(["--epochs", "50"])
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", nargs="?")
    name: str | None = parser.parse_known_args(arguments)[0].recipe
    if name is None:
        return None
    training = recipe_config(name, (Path("cache"),), Path("run"))
    for required in ("shards", "out"):
        object.__setattr__(training, required, tyro.MISSING)
    return Options(training=training, recipe=name)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    options: Options = parse_arguments(
        Options, prog="train-student", description=DESCRIPTION, arguments=arguments, defaults=recipe_defaults
    )
    given, processes = options.training, options.processes
    command = shlex.join(["train-student", *(sys.argv[1:] if arguments is None else arguments)])

    def work() -> Result:
        config = replace(
            given, shards=tuple(cache_folder(one) if isinstance(one, Path) else one for one in given.shards)
        )
        check_training(config, options.sweep)
        check_writable(config.out)
        if options.sweep is not None and processes.launcher == "ray":
            raise UsageError("--sweep trains its students on one device: give it without --launcher ray")
        if processes.launcher == "ray":
            from lookonce.clusters.training.launch import train_on_ray

            return train_on_ray(config, processes, command)
        announce(f"training {_students(options)} from {', '.join(map(str, config.shards))} to {config.out}")
        from lookonce.weights.device import resolve_device

        keep_freed_memory(resolve_device(config.device).type)
        if options.sweep is not None:
            from lookonce.train.sweep.lockstep import train_sweep

            return train_sweep(config, options.sweep, command=command)
        from lookonce.train.run import train_student

        return train_student(config, command=command)

    finish(work, options)


def _students(options: Options) -> str:
    return options.training.student if options.sweep is None else f"the students of {options.sweep}"
