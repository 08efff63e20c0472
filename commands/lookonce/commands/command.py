"""How every command behaves: parsing, exit codes, one sentence for an error, JSON for a result."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

from lookonce.shared.errors import EndedElsewhereError, Interrupted, LookonceError, UsageError
from lookonce.shared.faults.machine_errors import machine_error
from lookonce.shared.given_flags import refuse_urls
from lookonce.shared.stopping import STOPPED, ending_on_signals

EXIT_FAILURE, EXIT_USAGE = 1, 2


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options that every command has."""

    json: bool = False
    """Print the result as one JSON object on standard output (progress stays on standard error)."""
    debug: bool = False
    """Show the traceback of an error."""
    version: bool = False
    """Print the versions of lookonce and the libraries it stands on, and do nothing else."""


def finish(
    work: Callable[[], Mapping[str, Any]], options: CommonOptions, summarise: Callable[[Mapping[str, Any]], str]
) -> NoReturn:
    """Run a command's work and end the process: 0 on success, 2 on bad usage, 1 on failure with one sentence.

    Args:
        work: does it; returns the JSON-compatible result.
        options: the command's common options.
        summarise: the result as a few lines for people.
    """
    try:
        # What libraries print on the way (Ray does, when a worker dies) must not mix with the result.
        with ending_on_signals(), contextlib.redirect_stdout(sys.stderr):
            result = work()
        if _leads():
            print(json.dumps(result, ensure_ascii=False) if options.json else summarise(result), flush=True)
        code = int(result.get("exit_code", 0))
    except BrokenPipeError:  # the reader of our output went away: nothing to tell it
        _forget_standard_output()
        code = 0
    except (KeyboardInterrupt, Interrupted):  # Interrupted: raised by work that stops on its own terms
        stopped = Interrupted(STOPPED)
        code = _report(stopped, options)
    except UsageError as error:
        code = _report(error, options, EXIT_USAGE)
    except EndedElsewhereError as error:  # quiet: another process of the run has said it
        code = _report(error, options) if options.debug else EXIT_FAILURE
    except LookonceError as error:
        code = _report(error, options)
    except Exception as error:  # what torch, Ray or the operating system say where this machine lacks something
        known = machine_error(error, options)
        code = _report(known or error, options, unexpected=known is None)
    sys.exit(code)


def _leads() -> bool:
    """Whether this process prints the result: of several that torchrun has started, one does."""
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
    return code


def versions_line(prog: str) -> str:
    """What ``--version`` prints: the command with lookonce's version, then Python's and the main libraries'."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "open_clip_torch", "ray", "zarr"))
    return f"{prog} {version('lookonce')} (Python {platform.python_version()}, {libraries})"


def parse_arguments(
    options: Any,
    *,
    prog: str,
    description: str,
    arguments: Sequence[str] | None = None,
    expand: Callable[[Sequence[str]], Sequence[str]] = list,
) -> Any:
    """Make an options dataclass from the command line; bad usage prints what is wrong and exits with 2.

    Args:
        options: frozen dataclass type; its fields are the flags, its attribute docstrings the help.
        prog: the command's name.
        description: what the command does.
        arguments: instead of ``sys.argv[1:]``.
        expand: from the arguments as typed to those that are read.
    """
    import tyro

    given = sys.argv[1:] if arguments is None else arguments
    if "--version" in given:  # whatever else is given, or missing
        print(versions_line(prog))
        sys.exit(0)
    try:
        given = tyro.cli(
            options,
            prog=prog,
            description=description,
            args=expand(given),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        refuse_urls(given)
        return given
    except BrokenPipeError:  # --help into a pager that was closed
        _forget_standard_output()
        sys.exit(0)
    except UsageError as error:  # from a config's __post_init__
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
