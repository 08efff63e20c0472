"""Keeps teacher libraries from writing about what is no business of the user's, or what we report ourselves."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def silent_library() -> Generator[None, None, None]:
    """Inside, neither ``warnings`` nor log records up to ERROR come out (open_clip logs to the root logger).

    Only for short calls that build a model or fetch weights, whose failures we turn into our own errors.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
