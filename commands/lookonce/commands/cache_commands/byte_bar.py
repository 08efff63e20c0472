"""A progress bar of bytes, for commands that hash or move objects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator


@contextlib.contextmanager
def byte_bar() -> Generator[Callable[[int, int], None], None, None]:
    """Shows done and total bytes on standard error, if that is a terminal; yields the function to call with them."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
