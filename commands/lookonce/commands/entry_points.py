"""Entry points of the four commands. They import little, so that Ctrl-C during the imports ends in one sentence."""

from __future__ import annotations

import importlib
import os
import signal
import sys


def extract_features() -> None:
    """``extract-features``."""
    _run("extract_features")


def train_student() -> None:
    """``train-student``."""
    _run("train_student")


def feature_cache() -> None:
    """``feature-cache``."""
    _run("feature_cache")


def evaluate_student() -> None:
    """``evaluate-student``."""
    _run("evaluate_student")


def _run(module: str) -> None:
    """Run the command of a module, which exits. The command handles signals itself while it works."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup, for one, ignores it
        signal.signal(signal.SIGINT, _end_at_once)
    try:
        importlib.import_module(f"lookonce.commands.{module}").main()
    finally:
        if signal.getsignal(signal.SIGINT) is _end_at_once:  # from here on, end without a word
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end_at_once(_number: int, _frame: object) -> None:
    """End without an exception, which becomes a different one in the middle of some imports."""
    sys.stderr.write("error: stopped; run the same command again\n")
    sys.stderr.flush()
    os._exit(1)
