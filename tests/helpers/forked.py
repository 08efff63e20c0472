"""Work in a forked child."""

from __future__ import annotations

import os
from collections.abc import Callable

from lookonce.shared.errors import MachineError


def machine_error_of_child(work: Callable[[], object]) -> str:
    """Message of the MachineError that some work raises in a forked child; empty if it raises none."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
        except MachineError as error:
            os.write(write, error.message.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    return message
