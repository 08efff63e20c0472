"""Listings as tables: made lazily into entries, sorted beyond memory, kept on disk and used again while true."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookonce.shared.canonical import digest_document
from lookonce.shared.errors import SourceError, StorageError
from lookonce.shared.sources import NO_LABEL, ImageFolder, Listing, ListingEntry
from lookonce.shared.sources import kept_listing as kept
from lookonce.shared.sources import listing_builder as building
from lookonce.shared.sources.entry_table import CHUNK, EntryTable
from lookonce.shared.sources.listing_builder import ListingBuilder, SortedImages

LONG_AGO = 1_500_000_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Everything that is meant for many images happens with a few; the folder of listings."""
    monkeypatch.setattr(kept, "KEPT_FROM", 3)
    monkeypatch.setattr(building, "ROWS_PER_INSERT", 4)
    monkeypatch.setattr(building, "CACHE_KIB", 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg/lookonce/listings"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven images in two class folders, last changed long ago."""
    for number in range(11):
        path = tmp_path / "images" / f"c{number % 2}" / f"ä{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(number))
    settle(tmp_path / "images")
    return tmp_path / "images"


def settle(folder: Path) -> None:
    for place in (folder, *folder.rglob("*")):
        if place.is_dir():
            os.utime(place, (LONG_AGO, LONG_AGO))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a folder was walked."""
    count = 0
    look = ImageFolder._scan

    def counted(self: ImageFolder, *arguments: object) -> ListingBuilder:
        nonlocal count
        count += 1
        return look(self, *arguments)

    monkeypatch.setattr(ImageFolder, "_scan", counted)
    return lambda: count


def test_a_listing_is_kept_and_used_again(small: Path, folder: Path, looks: Callable[[], int]) -> None:
    first, second = ImageFolder(folder).listing(), ImageFolder(folder).listing()
    assert looks() == 1
    assert first == second
    assert (first.stored_at, second.stored_at is not None) == (None, True)
    assert (first.digest, first.classes) == (second.digest, second.classes)
    assert first.classes == ("c0", "c1")
    assert [entry.byte_count for entry in second.entries] == [0, 10, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    assert [entry.label for entry in second.entries] == [0] * 6 + [1] * 5
    assert len(list(small.iterdir())) == 1


def test_it_is_the_listing_that_memory_gives(folder: Path, request: pytest.FixtureRequest) -> None:
    plain = ImageFolder(folder).listing()
    request.getfixturevalue("small")
    assert ImageFolder(folder).listing() == plain
    assert ImageFolder(folder).listing().digest == plain.digest
    assert plain.digest == digest_document([[entry.key, entry.byte_count] for entry in plain.entries])


def test_list_anew(small: Path, folder: Path, looks: Callable[[], int]) -> None:
    ImageFolder(folder).listing()
    (folder / "c0/ä0.jpg").write_bytes(b"in place")  # changes neither folder
    settle(folder)
    assert ImageFolder(folder).listing().entries[0].byte_count == 0
    with pytest.raises(SourceError, match=r"expected 0 bytes, found 8.*--relist"):
        ImageFolder(folder).read(ImageFolder(folder).listing().entries[0])
    assert looks() == 1
    assert ImageFolder(folder).listing(refresh=True).entries[0].byte_count == 8
    assert ImageFolder(folder).listing().entries[0].byte_count == 8
    assert looks() == 2


@pytest.mark.parametrize("change", ["add", "remove", "rename", "replace", "new class", "move"])
def test_a_changed_folder_is_noticed(small: Path, folder: Path, change: str) -> None:
    before = ImageFolder(folder).listing()
    if change == "add":
        (folder / "c1/new.jpg").write_bytes(b"1")
    elif change == "remove":
        (folder / "c1/ä1.jpg").unlink()
    elif change == "rename":
        (folder / "c1/ä1.jpg").rename(folder / "c1/b.jpg")
    elif change == "replace":
        (folder / "c1/.x").write_bytes(b"22")
        (folder / "c1/.x").rename(folder / "c1/ä1.jpg")
    elif change == "new class":
        (folder / "c2").mkdir()
        (folder / "c2/x.jpg").write_bytes(b"1")
    else:
        (folder / "c1").rename(folder / "c3")
    after = ImageFolder(folder).listing()
    assert after.stored_at is None
    assert after.digest != before.digest


def test_a_folder_that_has_just_changed_is_looked_at_again(small: Path, folder: Path) -> None:
    (folder / "c0/new.jpg").write_bytes(b"1")
    for _ in range(2):
        listing = ImageFolder(folder).listing()
        assert (len(listing), listing.stored_at) == (12, None)
    assert not small.exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other version"])
def test_a_damaged_listing_is_made_anew(small: Path, folder: Path, damage: str) -> None:
    good = ImageFolder(folder).listing()
    (file,) = small.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[5] ^= 1
    elif damage == "other version":
        data = data.replace(b'"version": 4', b'"version": 3')
    file.unlink()  # the first listing still reads it
    file.write_bytes({"cut": data[:-9], "empty": b""}.get(damage, data))
    again = ImageFolder(folder).listing()
    assert again == good
    assert again.stored_at is None
    assert ImageFolder(folder).listing().stored_at is not None


def test_a_listing_that_is_cut_off_while_it_is_used(small: Path, folder: Path) -> None:
    listing = ImageFolder(folder).listing()
    os.truncate(next(small.iterdir()), 40)
    with pytest.raises(StorageError, match="the stored listing was truncated"):
        list(listing.entries)


def test_without_a_place_to_keep_it(small: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "xdg").write_text("a file where the folder should be")
    first, second = ImageFolder(folder).listing(), ImageFolder(folder).listing()
    assert first == second
    assert (len(second), second.stored_at) == (11, None)


def test_listings_lie_where_caches_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert kept.listings_folder() == Path("/x/lookonce/listings")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/h")
    assert kept.listings_folder() == Path("/h/.cache/lookonce/listings")


def test_a_small_listing_is_not_kept(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert len(ImageFolder(folder).listing()) == 11
    assert not (tmp_path / "xdg").exists()


def test_slices_and_pickles_of_a_kept_listing(small: Path, folder: Path) -> None:
    entries = ImageFolder(folder).listing().entries
    assert isinstance(entries, EntryTable)
    for start in range(12):
        for stop in range(start, 12):
            part = entries[start:stop]
            assert list(part) == list(entries)[start:stop]
            copy = pickle.loads(pickle.dumps(part))
            assert copy == part
            assert hash(copy) == hash(part)
    assert len(pickle.dumps(entries[3:4])) < 300
    assert entries[-1].key == "c1/ä9.jpg"
    with pytest.raises(IndexError):
        entries[11]
    with pytest.raises(ValueError, match="need step 1"):
        entries[::2]
    os.unlink(next(small.iterdir()))
    assert entries[0].key == "c0/ä0.jpg"  # a file without a name is still a file


def test_where_the_entries_of_keys_are() -> None:
    listing = Listing(tuple(ListingEntry(key, 0, 1) for key in "bdfü"), ())
    assert listing.positions(["f", "a", "ü", "b", "b", "z", "e", "d"]).tolist() == [2, -1, 3, 0, 0, -1, -1, 1]
    assert listing.positions([]).tolist() == []


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**40))), st.integers(1, 9))
def test_any_entries_come_back(pairs: list[tuple[str, int]], size: int) -> None:
    entries = [ListingEntry(key, size - 2, count, size, count) for key, count in sorted(dict(pairs).items())]
    listing = Listing(tuple(entries), ())
    assert list(listing.entries) == entries
    assert [listing.entries[row] for row in range(len(entries))] == entries
    assert listing.digest == digest_document([[entry.key, entry.byte_count] for entry in entries])


def test_more_entries_than_are_made_at_a_time() -> None:
    entries = tuple(ListingEntry(f"{number:06}", NO_LABEL, number) for number in range(2 * CHUNK + 7))
    listing = Listing(entries, ())
    assert tuple(listing.entries) == entries
    assert listing.digest == digest_document([[entry.key, entry.byte_count] for entry in entries])
    part = listing.entries[CHUNK - 2 : 2 * CHUNK]
    assert tuple(part) == entries[CHUNK - 2 : 2 * CHUNK]
    assert part.digest == digest_document([[entry.key, entry.byte_count] for entry in part])


@pytest.mark.parametrize("count", [0, 3, 4, 5, 5000])
def test_sorting_beyond_memory(small: Path, count: int) -> None:
    keys = sorted(f"{number:04}" if number % 3 else chr(0x4E00 + 7 * number) + "\0😀" for number in range(count))
    items = [(key, number, -1, 0, 1 << 40, 0) for number, key in enumerate(keys)]
    with SortedImages() as images:
        for item in random.Random(count).sample(items, count):
            images.add(item)
        assert len(images) == count
        assert list(images) == list(images) == items


def test_no_room_to_sort_is_the_machines_fault(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SortedImages() as images:
        images._database.execute("PRAGMA max_page_count = 8")
        builder = ListingBuilder(images)
        for number in range(building.ROWS_PER_INSERT - 1):
            builder.add(f"{number:04}" + 10_000 * "x", number)
        with pytest.raises(StorageError, match=r"temporary files failed: database or disk is full; make room there"):
            list(builder.entries())


def test_keys_that_come_twice_are_named(small: Path) -> None:
    with SortedImages() as images:
        builder = ListingBuilder(images, parts=("one.tar", "two.tar"))
        for number in range(20):
            builder.add(f"{number % 14:02}", 1, part=number // 14, offset=number)
        with pytest.raises(SourceError, match=r"6 more than once: '00' in one.tar \(byte 0\) and in two.tar \(byte 14"):
            list(builder.entries())


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (["1", "0", None, "007"], tuple("01234567"), [1, 0, -1, 7]),
        (["cat", "ant", None, "7"], ("7", "ant", "cat"), [2, 1, -1, 0]),
        ([None] * 4, (), [-1] * 4),
        ([str(1 << 30), "1", "1", "1"], ("1", str(1 << 30)), [1, 0, 0, 0]),
    ],
)
def test_classes_of_labels(labels: list[str | None], classes: tuple[str, ...], numbers: list[int]) -> None:
    with SortedImages() as images:
        builder = ListingBuilder(images)
        for number, label in enumerate(labels):
            builder.add(str(number), 1, label=label)
        assert builder.classes == classes
        assert [entry.label for entry in builder.entries()] == numbers


def test_a_file_written_again_is_noticed_whatever_its_size(folder: Path) -> None:
    source = ImageFolder(folder)
    entry = source.listing().entries[3]
    assert source.read(entry)
    file = folder / entry.key
    status = file.stat()
    file.write_bytes(bytes(len(file.read_bytes())))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    with pytest.raises(SourceError, match=rf"{entry.key}: expected a file changed last at .*was written again"):
        source.read(entry)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert source.read(entry)
