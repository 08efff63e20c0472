"""Images that are decoded side by side share a bounded memory; none is lost to it, and none waits for ever."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.images import decoding_room
from lookonce.shared.images.decode import decode_rgb, decoded_rgb
from lookonce.shared.images.decoding_room import DecodingRoom, machine_memory, room_for

GIB = 1 << 30


def photo(side: int = 64, format: str = "JPEG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def small_room(monkeypatch: pytest.MonkeyPatch) -> DecodingRoom:
    """Room for two photos of 64 x 64 pixels, and memory for a hundred."""
    room = DecodingRoom(2 * 64 * 64 * 9, 200 * 64 * 64 * 9)
    monkeypatch.setattr(decoding_room, "_room", room)
    return room


def within(images: list[bytes], room: DecodingRoom) -> list[int]:
    """Decodes in eight threads; the bytes that were taken while each was held."""

    def hold(data: bytes) -> int:
        with decoded_rgb(data, "here") as image:
            assert image.mode == "RGB"
            time.sleep(0.005)
            return room.taken

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(hold, images))


def test_all_threads_share_the_room(small_room: DecodingRoom) -> None:
    taken = within([photo()] * 40, small_room)
    assert max(taken) == small_room.size
    assert small_room.taken == 0


def test_a_larger_image_is_decoded_alone(small_room: DecodingRoom) -> None:
    small, large = photo(), photo(160)
    assert small_room.size < 160 * 160 * 9
    taken = within([small, small, large, small] * 5, small_room)
    assert {size for size in taken if size > small_room.size} == {160 * 160 * 9}


def test_what_needs_more_than_there_is_is_refused(small_room: DecodingRoom) -> None:
    for data in (photo(1200), photo(1200, "TIFF", "I;16")):
        with (
            pytest.raises(
                UnreadableImageError, match=r"here: .*decoding it takes up to 0\.0 GB, and there are 0\.0 GB"
            ),
            decoded_rgb(data, "here"),
        ):
            pass
    assert small_room.taken == 0


def test_room_is_given_back_whatever_happens(small_room: DecodingRoom) -> None:
    damaged = photo(format="PNG")[:-60]
    for _ in range(5):
        with pytest.raises(UnreadableImageError), decoded_rgb(damaged, "here"):
            pass
        with pytest.raises(ZeroDivisionError), decoded_rgb(photo(), "here"):
            raise ZeroDivisionError
    assert small_room.taken == 0


def test_first_come_first_served() -> None:
    room, order = DecodingRoom(10, 1000), []
    room.enter(8)

    def enter(needed: int) -> None:
        room.enter(needed)
        order.append(needed)
        room.leave(needed)

    threads = []
    for needed in (100, 1, 2):  # the small ones do not overtake the large one for ever
        threads.append(threading.Thread(target=enter, args=(needed,)))
        threads[-1].start()
        while len(room._waiting) < len(threads):
            time.sleep(0.001)
    assert order == []
    room.leave(8)
    for thread in threads:
        thread.join()
    assert order[0] == 100
    assert room.taken == 0


def test_pixels_do_not_depend_on_the_room(small_room: DecodingRoom) -> None:
    for data in (photo(), photo(format="PNG", mode="RGBA"), photo(format="TIFF"), photo(format="TIFF", mode="I;16")):
        with decoded_rgb(data, "here") as image:
            np.testing.assert_array_equal(np.array(image), np.array(decode_rgb(data, "here")))


def test_how_much_room_there_is() -> None:
    assert [room_for(memory) // GIB for memory in (GIB, 8 * GIB, 32 * GIB, 1000 * GIB)] == [1, 1, 4, 8]
    assert 1 << 28 < machine_memory() < 1 << 50


def test_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit, unlimited = tmp_path / "limit", tmp_path / "unlimited"
    limit.write_text("123456789\n")
    unlimited.write_text("max\n")
    monkeypatch.setattr(decoding_room, "_CGROUP_LIMITS", (str(unlimited), str(tmp_path / "none"), str(limit)))
    assert machine_memory() == 123456789
