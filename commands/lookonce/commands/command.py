"""What all commands share: parsing, exit codes, one sentence for an error, text or JSON for a result."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, NoReturn

from lookonce.shared.errors import EndedElsewhereError, Interrupted, LookonceError, UsageError
from lookonce.shared.faults.machine_errors import machine_error
from lookonce.shared.given_flags import flag_values, refuse_urls
from lookonce.shared.printing import Result
from lookonce.shared.stopping import STOPPED, ending_on_signals

EXIT_FAILURE, EXIT_USAGE = 1, 2


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Flags that every command has."""

    json: bool = False
    """Print the result, or the error, as one JSON object on standard output (progress stays on standard error)."""
    debug: bool = False
    """Show the traceback of an error."""
    version: bool = False
    """Print the versions of lookonce and of the main libraries, and exit."""


def finish(work: Callable[[], Result], options: CommonOptions) -> NoReturn:
    """Run a command's work, print its result and end the process.

    Exits with the result's own code, with 2 on bad usage, and with 1 and one sentence on failure.

    Args:
        work: does it and returns the result.
        options: all flags of the command.
    """
    try:
        # Output of libraries (Ray prints when a worker dies) must not mix with the result.
        with ending_on_signals(), contextlib.redirect_stdout(sys.stderr):
            result = work()
        if _is_leader():
            print(json.dumps(result.document(), ensure_ascii=False) if options.json else result.text(), flush=True)
        code = result.exit_code
    except BrokenPipeError:  # the reader of our output has exited
        _forget_standard_output()
        code = 0
    except (KeyboardInterrupt, Interrupted):
        code = _report(Interrupted(STOPPED), options)
    except UsageError as error:
        code = _report(error, options, EXIT_USAGE)
    except EndedElsewhereError as error:  # another process of the run prints the error
        code = EXIT_FAILURE
        if options.debug:
            _report(error, options)
        elif options.json and _is_leader():
            print_error_document(error.cause or error)
    except LookonceError as error:
        code = _report(error, options)
    except Exception as error:  # torch, Ray and the operating system raise these when the machine lacks something
        known = machine_error(error, SimpleNamespace(**flag_values(options)))
        code = _report(known or error, options, unexpected=known is None)
    sys.exit(code)


def _is_leader() -> bool:
    """Whether this process prints the result: one of those that torchrun has started does."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _forget_standard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: BaseException, options: CommonOptions, code: int = EXIT_FAILURE, *, unexpected: bool = False) -> int:
    if options.debug:
        traceback.print_exception(error)
    sentence = " ".join(str(error).split()) or type(error).__name__
    if unexpected:
        sentence = f"unexpected {type(error).__name__}: {sentence} (a bug in lookonce; --debug shows the traceback)"
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    if options.json and _is_leader():
        print_error_document(error)
    return code


def print_error_document(error: BaseException) -> None:
    """Print ``{"error": {"kind": ..., "message": ...}}`` on standard output, as ``--json`` asks."""
    document = (
        error.document()
        if isinstance(error, LookonceError)
        else {"kind": "unexpected", "message": f"{type(error).__name__}: {error}"}
    )
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"error": document}, ensure_ascii=False), flush=True)


def versions_line(prog: str) -> str:
    """The line of ``--version``: the command with lookonce's version, then those of Python and the main libraries."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "open_clip_torch", "ray", "zarr"))
    return f"{prog} {version('lookonce')} (Python {platform.python_version()}, {libraries})"


def _separate_colours(given: Sequence[str]) -> list[str]:
    """The arguments with three values of ``--mean`` and ``--std`` in one text, 0.5,0.5,0.5, made three arguments."""
    separate: list[str] = []
    for before, text in zip(["", *given], given, strict=False):
        flag, equals, value = text.partition("=")
        if before in ("--mean", "--std") and "," in text:
            separate += text.replace(",", " ").split()
        elif flag in ("--mean", "--std") and equals and "," in value:
            separate += [flag, *value.replace(",", " ").split()]
        else:
            separate.append(text)
    return separate


def parse_arguments(
    options: Any,
    *,
    prog: str,
    description: str,
    arguments: Sequence[str] | None = None,
    expand: Callable[[Sequence[str]], Sequence[str]] = list,
    defaults: Callable[[Sequence[str]], Any] = lambda given: None,
) -> Any:
    """Build an options dataclass from the command line; bad usage prints what is wrong and exits with 2.

    Args:
        options: frozen dataclass type. Its fields are the flags, and so are the fields of dataclasses that it contains;
            attribute docstrings are the help.
        prog: the command's name.
        description: what the command does.
        arguments: instead of ``sys.argv[1:]``.
        expand: adds arguments, such as those of a ``--config`` file.
        defaults: gives an instance of ``options`` to take defaults from; None for those of the dataclass.
    """
    import tyro

    given = sys.argv[1:] if arguments is None else arguments
    if "--version" in given:  # other flags may be missing
        print(versions_line(prog))
        sys.exit(0)
    try:
        parsed = tyro.cli(
            options,
            prog=prog,
            description=description,
            args=_separate_colours(expand(given)),
            default=tyro.MISSING_NONPROP if (default := defaults(given)) is None else default,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        refuse_urls(parsed)
        return parsed
    except BrokenPipeError:  # --help into a pager that was closed
        _forget_standard_output()
        sys.exit(0)
    except UsageError as error:  # from a config's __post_init__
        print(f"error: {error}", file=sys.stderr)
        if "--json" in given:
            print_error_document(error)
        sys.exit(EXIT_USAGE)
