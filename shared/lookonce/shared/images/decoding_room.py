"""Limits the memory of all images that the threads of a process decode at the same time."""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

Admit = Callable[[int], None]
"""Called before decoding with the most bytes that an image needs; it may wait."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class DecodingRoom:
    """Memory for decoded images. Threads that find too little wait, in first-come order.

    An image that needs more than the whole room is decoded alone.

    Args:
        size: bytes of the room.
        memory: bytes of memory of this process; an image that needs more is refused.
        strict: an image that needs more than the whole room is not decoded at all: ``enter`` raises MemoryError.
    """

    def __init__(self, size: int, memory: int, *, strict: bool = False) -> None:
        self.size, self.memory, self.taken, self._strict = size, memory, 0, strict
        self._changed = threading.Condition()
        self._waiting: collections.deque[object] = collections.deque()

    def enter(self, needed: int) -> None:
        """Wait for room, and reserve it.

        Raises:
            MemoryError: the room is strict, and too small.
        """
        if self._strict and needed > self.size:
            raise MemoryError(f"decoding takes up to {needed} bytes, and this process has room for {self.size}")
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._fits(needed))
                self.taken += needed
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def leave(self, needed: int) -> None:
        """Release room."""
        with self._changed:
            self.taken -= needed
            self._changed.notify_all()

    def place(self) -> Place:
        """A reservation for one image, released at the end of its block."""
        return Place(self)

    def _fits(self, needed: int) -> bool:
        return self.taken == 0 or self.taken + needed <= self.size


class Place:
    """Reservation of one image, until the end of the block; used by one thread."""

    def __init__(self, room: DecodingRoom) -> None:
        self._room, self._taken = room, 0

    def admit(self, needed: int) -> None:
        """Wait until there is room for an image.

        Raises:
            ValueError: the image needs more memory than this process has.
            MemoryError: the room is strict, and too small.
        """
        memory = self._room.memory
        if needed > memory:
            raise ValueError(
                f"decoding it takes up to {needed / 1e9:.1f} GB, and there are {memory / 1e9:.1f} GB of memory for "
                "this process; make it smaller, or use a machine with more memory"
            )
        if needed > self._taken:  # a second try, without metadata, needs the same memory
            self._release()  # waiting with a reservation could cause a deadlock
            self._room.enter(needed)
            self._taken = needed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._taken:
            self._room.leave(self._taken)
            self._taken = 0


def machine_memory() -> int:
    """Bytes of memory that this process may use: those of the machine or of its container."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in _CGROUP_LIMITS:
        try:
            found.append(int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such controller, or "max"
            continue
    return min(found)


def room_for(memory: int) -> int:
    """Bytes of the room for ``memory`` bytes of memory: an eighth, from 1 to 8 GiB."""
    return min(max(memory // 8, 1 << 30), 8 << 30)


def _new_room() -> DecodingRoom:
    memory = machine_memory()
    return DecodingRoom(room_for(memory), memory)


_room = _new_room()


def shared_room() -> DecodingRoom:
    """The room of this process."""
    return _room


def limit_shared_room(size: int) -> None:
    """Give this process a strict room of ``size`` bytes; called before images are decoded."""
    global _room
    _room = DecodingRoom(size, machine_memory(), strict=True)


def _empty_in_child() -> None:
    global _room
    _room = _new_room()  # the parent's threads do not exist in the child


os.register_at_fork(after_in_child=_empty_in_child)
