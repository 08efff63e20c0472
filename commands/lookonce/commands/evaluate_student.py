"""``evaluate-student``: how good the features of a model are; one file per measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, Union

import tyro

from lookonce.commands.command import finish, parse_arguments
from lookonce.commands.evaluation_commands.finetune import FINETUNE
from lookonce.commands.evaluation_commands.knn import KNN
from lookonce.commands.evaluation_commands.linear import LINEAR
from lookonce.commands.evaluation_commands.segment import SEGMENT

DESCRIPTION = "Measure on labelled images how good a student, a teacher or an untrained model is."

MEASURES = {measure.options: measure for measure in (KNN, LINEAR, FINETUNE, SEGMENT)}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    options = parse_arguments(_any_options(), prog="evaluate-student", description=DESCRIPTION, arguments=arguments)
    finish(lambda: MEASURES[type(options)].run(options), options)


def _any_options() -> Any:
    """The union of all measures' options, each under its name."""
    named = [
        Annotated[one.options, tyro.conf.subcommand(name=one.name, description=one.description)]
        for one in MEASURES.values()
    ]
    return Union[tuple(named)]  # noqa: UP007 - built at run time
