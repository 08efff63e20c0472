"""A process that makes views for one thread of its parent; see ``view_processes``.

It is started as ``python -m lookonce.extract.views.view_process SOCKET MEMORY``, with two open descriptors. It ends
when its parent closes the socket or dies. It imports no torch.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from multiprocessing.connection import Connection

from lookonce.extract.views.shared_patches import SharedPatches
from lookonce.extract.views.view_arrays import ViewArrays
from lookonce.extract.views.view_messages import Made, NotSetUp, Request, Setup
from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.images.decoding_room import limit_shared_room


def main() -> None:
    """Answer requests until the socket is closed."""
    for one in (signal.SIGINT, signal.SIGTERM):  # the parent decides how a run ends, and may need the last views
        signal.signal(one, signal.SIG_IGN)
    connection, memory = Connection(int(sys.argv[1])), SharedPatches(int(sys.argv[2]))
    with contextlib.suppress(EOFError, ConnectionError):
        setup = _received_setup(connection)
        if isinstance(setup, NotSetUp):
            connection.send(setup)
            return
        limit_shared_room(setup.room)
        while True:
            connection.send(_made(setup, connection.recv(), memory))


def _received_setup(connection: Connection) -> Setup | NotSetUp:
    try:
        setup: Setup = connection.recv()
        return setup
    except (EOFError, ConnectionError):
        raise
    except Exception as error:  # anything, because the source is unpickled
        return NotSetUp(f"{type(error).__name__}: {error}")


def _made(setup: Setup, request: Request, memory: SharedPatches) -> Made:
    arrays = ViewArrays.around(memory.array(request.shape))
    problems: list[UnreadableImageError | None] = []
    left: list[int] = []
    for index, (row, entry) in enumerate(zip(request.rows, request.entries, strict=True)):
        problem = None
        try:
            problem = arrays.fill(index, setup.producer, setup.patch_size, row, entry, request.seeds)
        except Exception:  # raised in the parent, with its class and causes, if it happens there too
            left.append(index)
        problems.append(problem)
    jpegs: list[list[bytes | None]] = arrays.jpegs.tolist()
    some = any(jpeg for of_seed in jpegs for jpeg in of_seed)
    return Made(problems, left, arrays.digests.tobytes(), arrays.parameters.tobytes(), jpegs if some else None)


if __name__ == "__main__":
    main()
