"""``train-student --recipe NAME``: a recipe's values as flags that stand before the user's own, which win."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from lookonce.train.config import TrainingConfig
from lookonce.train.recipes import recipe_config

GIVEN_BY_THE_USER = ("shards", "out")
"""What no recipe knows."""


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """The arguments, headed by what the recipe among them changes of the defaults.

    Raises:
        UsageError: there is no such recipe.

    >>> with_recipe(["--recipe", "maskalign-l-clip-b16", "--epochs", "50"])[-4:]
    ['--recipe', 'maskalign-l-clip-b16', '--epochs', '50']
    >>> with_recipe(["--recipe", "maskalign-l-clip-b16"])[:4]
    ['--mix-order', 'mix-then-adapt', '--loss-scale', '2.0']
    >>> with_recipe(["--epochs", "50"])
    ['--epochs', '50']
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", nargs="?")
    name = parser.parse_known_args(arguments)[0].recipe
    if name is None:
        return list(arguments)
    config = recipe_config(name, (Path("cache"),), Path("run"))
    changed = [
        (field.name, getattr(config, field.name))
        for field in fields(TrainingConfig)
        if field.name not in GIVEN_BY_THE_USER and getattr(config, field.name) != field.default
    ]
    flags = [part for flag, value in changed for part in (f"--{flag.replace('_', '-')}", str(value))]
    return flags + list(arguments)
