"""Suppresses warnings and logs of teacher libraries that do not concern the user, or that lookonce reports itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def suppress_library_output() -> Generator[None, None, None]:
    """A context without ``warnings`` and without log records up to ERROR (open_clip logs to the root logger).

    Only for short calls that build a model or fetch weights; their failures are raised as lookonce errors.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
