"""``evaluate-student``: how good the features of a student, a teacher or an untrained model are; one file a measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

from lookonce.commands.command import finish, parse_arguments
from lookonce.commands.evaluation_commands.finetune import DESCRIPTION as FINETUNE_DESCRIPTION
from lookonce.commands.evaluation_commands.finetune import FinetuneOptions, run_finetune, summarise_finetune
from lookonce.commands.evaluation_commands.knn import DESCRIPTION as KNN_DESCRIPTION
from lookonce.commands.evaluation_commands.knn import KnnOptions, run_knn, summarise_knn
from lookonce.commands.evaluation_commands.linear import DESCRIPTION as LINEAR_DESCRIPTION
from lookonce.commands.evaluation_commands.linear import LinearOptions, run_linear, summarise_linear

DESCRIPTION = "Measure on labelled images how good a student is, a teacher, or an untrained model."

MEASURES: Mapping[type[Any], tuple[Callable[[Any], Mapping[str, Any]], Callable[[Mapping[str, Any]], str]]] = {
    KnnOptions: (run_knn, summarise_knn),
    LinearOptions: (run_linear, summarise_linear),
    FinetuneOptions: (run_finetune, summarise_finetune),
}
"""Flags of a measure -> how it is taken, and how it is told to people."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    options = parse_arguments(_measures(), prog="evaluate-student", description=DESCRIPTION, arguments=arguments)
    run, summarise = MEASURES[type(options)]
    finish(lambda: run(options), options, summarise)


def _measures() -> Any:
    """The subcommands as a type for tyro."""
    from tyro.conf import subcommand

    knn = Annotated[KnnOptions, subcommand("knn", description=KNN_DESCRIPTION)]
    linear = Annotated[LinearOptions, subcommand("linear", description=LINEAR_DESCRIPTION)]
    finetune = Annotated[FinetuneOptions, subcommand("finetune", description=FINETUNE_DESCRIPTION)]
    return knn | linear | finetune
