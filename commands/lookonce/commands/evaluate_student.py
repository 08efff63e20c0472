"""``evaluate-student``: how good the features of a student, a teacher or an untrained model are; one file a measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

from lookonce.commands.command import finish, parse_arguments
from lookonce.commands.evaluate_knn import DESCRIPTION as KNN_DESCRIPTION
from lookonce.commands.evaluate_knn import KnnOptions, run_knn, summarise_knn

DESCRIPTION = "Measure how good frozen features are on labelled images: a student's, a teacher's, an untrained model's."


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    options: KnnOptions = parse_arguments(
        _measures(), prog="evaluate-student", description=DESCRIPTION, arguments=arguments
    )
    finish(lambda: run_knn(options), options, summarise_knn)


def _measures() -> Any:
    """The subcommands as a type for tyro."""
    from tyro.conf import Suppress, subcommand

    knn = Annotated[KnnOptions, subcommand("knn", description=KNN_DESCRIPTION)]
    return knn | Annotated[None, Suppress]  # a union, which makes subcommands, has at least two members
