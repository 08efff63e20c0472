"""Image sources: what every one promises, and what a folder of images adds."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lookonce.shared.errors import SourceError, UsageError
from lookonce.shared.images.decode import FORMATS, decode_rgb
from lookonce.shared.sources import NO_LABEL, ImageFolder, ImageSource, Listing, ListingEntry, hugging_face, open_source
from lookonce.shared.sources.image_names import EXTENSIONS, begins_like_image

FILES = {
    "b/two.jpg": b"22",
    "a/one.PNG": b"1",
    "a/deep/er/three.JPEG": b"333",
    "a/Z.webp": b"",
    "b/ä.tiff": b"55555",
}


KNOWN = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "JPEG", "Jpg")


def write(root: Path, files: dict[str, bytes]) -> Path:
    for key, data in files.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return root


class SourceContract:
    """What each kind of source promises; a new kind subclasses this and gives ``make``.

    ``make(place, files)`` puts the files (key to bytes) in the folder ``place`` in the source's own form and opens it.
    """

    def make(self, place: Path, files: dict[str, bytes]) -> ImageSource:
        raise NotImplementedError

    def listed(self, files: dict[str, bytes]) -> list[tuple[str, bytes]]:
        """The keys that the files are listed under, in order, and their contents."""
        return sorted(files.items())

    def test_every_image_is_listed_in_key_order_and_read(self, tmp_path: Path) -> None:
        source = self.make(tmp_path, FILES)
        listing, expected = source.listing(), self.listed(FILES)
        assert [entry.key for entry in listing.entries] == sorted(key for key, _ in expected)
        assert [entry.byte_count for entry in listing.entries] == [len(data) for _, data in expected]
        assert [source.read(entry) for entry in listing.entries] == [data for _, data in expected]

    def test_the_listing_depends_on_nothing_but_the_content(self, tmp_path: Path) -> None:
        first = self.make(tmp_path / "x", FILES).listing()
        second = self.make(tmp_path / "y/z", dict(reversed(FILES.items()))).listing()
        assert [(entry.key, entry.label) for entry in first.entries] == [(e.key, e.label) for e in second.entries]
        assert first.classes == second.classes
        assert first.digest == second.digest
        assert self.make(tmp_path / "w", FILES | {"b/two.jpg": b"2"}).listing().digest != first.digest
        assert self.make(tmp_path / "v", FILES | {"b/three.jpg": b"2"}).listing().digest != first.digest

    def test_it_travels_to_another_process(self, tmp_path: Path) -> None:
        source = self.make(tmp_path, FILES)
        listing = source.listing()
        copy, copied_listing = pickle.loads(pickle.dumps((source, listing)))
        assert copied_listing == listing == copy.listing()
        assert copy.read(copied_listing.entries[1]) == b"333"

    def test_threads_may_read_at_once(self, tmp_path: Path) -> None:
        files = {f"{number:03}.jpg": bytes([number]) * (number + 1) for number in range(100)}
        source = self.make(tmp_path, files)
        with ThreadPoolExecutor(8) as threads:
            read = list(threads.map(source.read, list(source.listing().entries) * 5))
        assert read == [files[key] for key in sorted(files)] * 5

    def test_an_image_of_another_size_is_named(self, tmp_path: Path) -> None:
        source = self.make(tmp_path / "x", FILES)
        entry = source.listing().entries[3]
        shutil.rmtree(tmp_path / "x")
        changed = self.make(tmp_path / "x", FILES | {"b/two.jpg": b"longer"})
        with pytest.raises(SourceError, match=rf"{entry.key}: expected"):
            source.read(entry)
        assert len(changed.read(changed.listing().entries[3])) == 6

    def test_an_image_that_is_gone_is_named(self, tmp_path: Path) -> None:
        source = self.make(tmp_path / "x", FILES)
        entry = source.listing().entries[3]
        shutil.rmtree(tmp_path / "x")
        self.forget()
        with pytest.raises(SourceError, match=rf"{entry.key}: expected 2 bytes|found: FileNotFoundError"):
            source.read(entry)

    def test_no_images_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="expected"):
            self.make(tmp_path, {}).listing()

    def test_no_source_at_all(self, tmp_path: Path) -> None:
        source = self.make(tmp_path / "x", FILES)
        shutil.rmtree(tmp_path / "x")
        self.forget()
        with pytest.raises(SourceError, match=f"{tmp_path}/x.*: expected"):
            source.listing()

    def test_the_first_images(self, tmp_path: Path) -> None:
        listing = self.make(tmp_path, FILES).listing()
        assert list(listing.head(2).entries) == list(listing.entries)[:2]
        assert listing.head(2).classes == listing.classes

    def forget(self) -> None:
        """Be as another process would be."""


class TestImageFolder(SourceContract):
    def make(self, place: Path, files: dict[str, bytes]) -> ImageSource:
        place.mkdir(parents=True, exist_ok=True)
        return open_source(str(write(place, files)))


class TestTarShards(SourceContract):
    """Two tars, the samples of which lie in another order than their keys."""

    def make(self, place: Path, files: dict[str, bytes]) -> ImageSource:
        place.mkdir(parents=True, exist_ok=True)
        for number in range(2):
            with tarfile.open(place / f"{number}.tar", "w") as tar:
                for key in list(files)[number::2]:
                    header = tarfile.TarInfo(key)
                    header.size = len(files[key])
                    tar.addfile(header, io.BytesIO(files[key]))
        return open_source(f"{place}/{{0..1}}.tar")


@pytest.mark.filterwarnings("ignore:Cannot (locate|pickle)")  # dill's, while datasets writes
class TestHuggingFaceImages(SourceContract):
    """Rows in key order."""

    def make(self, place: Path, files: dict[str, bytes]) -> ImageSource:
        datasets = pytest.importorskip("datasets", reason="needs the optional library datasets")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        rows = sorted(files.items())
        columns = {
            "image": [{"bytes": data, "path": os.path.basename(key)} for key, data in rows],
            "label": [int(key[0] == "b") for key, _ in rows],
        }
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(place)
        self.forget()
        return open_source(f"hf:{place}")

    def test_no_images_at_all(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets", reason="needs the optional library datasets")
        datasets.Dataset.from_dict({"x": [1], "y": ["a"]}).save_to_disk(tmp_path / "x")
        with pytest.raises(SourceError, match="expected one image column or one called 'image', found none among x, y"):
            open_source(f"hf:{tmp_path}/x").listing()

    def listed(self, files: dict[str, bytes]) -> list[tuple[str, bytes]]:
        return [(f"{row:09}", data) for row, (_, data) in enumerate(sorted(files.items()))]

    def forget(self) -> None:
        hugging_face._opened.cache_clear()


def test_class_folders_give_labels(tmp_path: Path) -> None:
    listing = ImageFolder(write(tmp_path, FILES)).listing()
    assert listing.classes == ("a", "b")
    assert [entry.label for entry in listing.entries] == [0, 0, 0, 1, 1]


def test_images_outside_the_class_folders_cost_a_line_and_not_the_labels(tmp_path: Path) -> None:
    stray = {"cover.jpg": b"0", "a.jpg": b"0"}
    for make in (TestImageFolder().make, TestTarShards().make):
        listing = make(tmp_path / make.__qualname__, FILES | stray).listing()
        assert listing.classes == ("a", "b")
        assert {entry.key for entry in listing.entries if entry.label == NO_LABEL} == set(stray)
        assert listing.notes == ("without a label, because they lie beside the class folders: a.jpg, cover.jpg",)


def test_a_folder_beside_most_images_is_no_class(tmp_path: Path) -> None:
    listing = ImageFolder(write(tmp_path, dict.fromkeys(("more/1.jpg", "1.jpg"), b"1"))).listing()
    assert listing.classes == ()
    assert listing.labels.tolist() == [NO_LABEL] * 2
    assert listing.notes == ()


def test_a_class_without_images_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    listing = ImageFolder(
        write(tmp_path, {"a/x.jpg": b"", "notes/y.txt": b"", "notes/z": b"x", "a/l.txt": b""})
    ).listing()
    assert listing.classes == ("a",)
    assert listing.notes == (
        "left out: 3 files (2 .txt, 1 without extension)",
        "not among the classes, because they contain no image: the folders empty, notes",
    )


def test_folders_named_like_parts_of_a_data_set_are_pointed_out(tmp_path: Path) -> None:
    def notes(*names: str) -> tuple[str, ...]:
        root = tmp_path / "-".join(names)
        return ImageFolder(write(root, {f"{name}/cat/1.jpg": b"" for name in names})).listing().notes

    (note,) = notes("train", "test")
    assert note.startswith("the folders test, train look like the splits of a dataset, not like classes; all of them")
    assert "--images (.../train)" in note
    for names in (("Train", "VAL"), ("validation",), ("train", "valid", "extra")):
        assert len(notes(*names)) == 1, names
    for names in (("test", "rose"), ("cat", "dog")):  # a class may well be called so
        assert notes(*names) == (), names


PICTURE = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_decoded_is_listed(tmp_path: Path, format: str) -> None:
    """By each name that Pillow knows, and with none; in a folder and in a tar."""
    data = encoded(format)
    names = [name for name, known in Image.registered_extensions().items() if known == format]
    keys = [f"{number}{name}" for number, name in enumerate(names)]
    keys += [] if format in ("PCX", "DIB", "SGI") else ["bare"]  # too little tells these from other files
    files = {f"a/{key}": data for key in keys}
    for make in (TestImageFolder().make, TestTarShards().make):
        listing = make(tmp_path / make.__qualname__, files | {"a/README": b"words", "a/b.txt": b"words"}).listing()
        assert [entry.key for entry in listing.entries] == sorted(files)
        assert listing.notes == ("left out: 2 files (1 .txt, 1 without extension)",)
    assert decode_rgb(data, "here").size == (8, 8)


def test_the_table_of_names_is_pillows() -> None:
    known = {name for name, format in Image.registered_extensions().items() if format in (*FORMATS, "MPO")}
    assert known <= EXTENSIONS
    assert EXTENSIONS - known == {".dib"} - known  # Pillow writes DIB under BMP's names in some versions


@pytest.mark.parametrize(
    "head",
    [b"", b"P", b"P5", b"Plain text", b"BMW and others, which begin with two letters", b"RIFF....AVI ", b"\xff\xd8"],
)
def test_other_beginnings_are_no_images(head: bytes) -> None:
    assert not begins_like_image(head)


def test_many_kinds_are_counted_in_one_short_line(tmp_path: Path) -> None:
    files = {f"a/{number}.{number:03}": b"" for number in range(100)} | {"a/1.jpg": b""}
    (note,) = ImageFolder(write(tmp_path, files)).listing().notes
    assert note.startswith("left out: 100 files (1 .000, ")
    assert note.endswith("1 .007, 92 of 92 other kinds)")


def test_extensions_in_any_case_and_hidden_names(tmp_path: Path) -> None:
    images = [f"x{n}.{e}" for n, e in enumerate(KNOWN)]
    others = ["x.txt", "jpg", "x.jpg.bak", ".x.jpg", ".hidden/x.jpg", "a/.cache/x.png"]
    listing = ImageFolder(write(tmp_path, dict.fromkeys(images + others, b""))).listing()
    assert sorted(entry.key for entry in listing.entries) == sorted(images)


def test_a_missing_folder_is_named_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{tmp_path}/no/such: expected a folder .*{tmp_path} is the last"):
        open_source(f"{tmp_path}/no/such").listing()


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=f"{tmp_path}/no: expected"):
        open_source("no").listing()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    write(tmp_path, {"x.jpg": b"1"})
    for text in ("x.jpg", "x.jpg/below"):
        with pytest.raises(SourceError, match=r"x\.jpg.*expected a folder"):
            open_source(f"{tmp_path}/{text}").listing()


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{tmp_path}: .*found no files at all"):
        ImageFolder(tmp_path).listing()
    write(tmp_path, {"a.txt": b"", "b/c.TXT": b"", "d.npy": b"", "README": b""})
    with pytest.raises(SourceError, match=r"found 4 other files \(2 \.txt, 1 \.npy, 1 without extension\)"):
        ImageFolder(tmp_path).listing()


def test_a_file_that_changed_or_vanished_since_the_listing(tmp_path: Path) -> None:
    source = ImageFolder(write(tmp_path, FILES))
    listing = source.listing()
    (tmp_path / "b/two.jpg").write_bytes(b"longer")
    (tmp_path / "a/one.PNG").unlink()
    entries = {entry.key: entry for entry in listing.entries}
    with pytest.raises(SourceError, match=r"b/two\.jpg: expected 2 bytes, found 6"):
        source.read(entries["b/two.jpg"])
    with pytest.raises(SourceError, match=r"a/one\.PNG: expected 1 bytes .*No such file"):
        source.read(entries["a/one.PNG"])


@pytest.mark.timeout(20)
def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"a/x.jpg": b"1", "b/y.jpg": b"2"})
    write(tmp_path / "outside", {"z.jpg": b"3"})
    (root / "a/up").symlink_to(root)
    (root / "a/here").symlink_to(".")
    (root / "a/over").symlink_to("../b")
    (root / "b/over").symlink_to("../a")
    (root / "c").symlink_to(tmp_path / "outside")
    (root / "self").symlink_to("self")
    (root / "b/file.jpg").symlink_to("../a/x.jpg")
    keys = [entry.key for entry in ImageFolder(root).listing().entries]
    assert keys == ["a/over/file.jpg", "a/over/y.jpg", "a/x.jpg", "b/file.jpg", "b/over/x.jpg", "b/y.jpg", "c/z.jpg"]


def test_an_image_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": b"1"})
    (tmp_path / "annex.jpg").symlink_to("gone.jpg")
    with pytest.raises(SourceError, match=r"annex\.jpg: .*broken link"):
        ImageFolder(tmp_path).listing()


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": b"1"})
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [entry.key for entry in ImageFolder(tmp_path).listing().entries] == ["a.jpg"]


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"1")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(SourceError, match=r"udcff\.jpg.*expected a file name in UTF-8") as caught:
        ImageFolder(tmp_path).listing()
    str(caught.value).encode("utf-8")  # can be printed


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(SourceError, match="/a: cannot be listed"):
            ImageFolder(tmp_path).listing()
    finally:
        (tmp_path / "a").chmod(0o755)


@pytest.mark.parametrize("text", ["s3://b/x", "gs://b/{0..9}.tar", "https://x/1.tar", "s3:/b/x", "S3://b", "az://c/x"])
def test_urls_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"URLs are not supported: images are read from a disk \(a fold.*; mount it"):
        open_source(text)


def test_other_kinds_say_what_is_supported() -> None:
    with pytest.raises(UsageError, match=r"'pipe:cat x\.tar'.* not supported; expected one of: a folder of images"):
        open_source("pipe:cat x.tar")
    with pytest.raises(UsageError, match=r"--images file:///data/x: file: URLs .*; give /data/x$"):
        open_source("file:///data/x")


def test_a_folder_may_be_called_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "s3:" / "b", {"1.jpg": b"1"})
    assert len(open_source("s3:/b").listing()) == 1


def test_an_empty_name_is_no_source() -> None:
    with pytest.raises(UsageError, match="empty name"):
        open_source("")


def test_a_folder_with_an_odd_name_is_a_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "odd{0..1}.tar", {"a.jpg": b"1"})
    assert len(open_source(str(folder)).listing()) == 1


def test_head_keeps_the_order_and_the_classes() -> None:
    listing = Listing(tuple(ListingEntry(key, 0, 1) for key in "abc"), ("one",))
    assert [entry.key for entry in listing.head(2).entries] == ["a", "b"]
    assert listing.head(2).classes == ("one",)
    assert listing.head(9) == listing
    assert listing.head(2).digest != listing.digest
    with pytest.raises(UsageError, match="at least 1 image, found 0"):
        listing.head(0)


def spread(labels: list[int], limit: int) -> list[int]:
    entries = tuple(ListingEntry(f"{place:05}", label, 1) for place, label in enumerate(labels))
    return [int(entry.key) for entry in Listing(entries, ("x", "y", "z")).spread(limit).entries]


def test_a_limit_is_spread_over_the_classes() -> None:
    labels = [0] * 5 + [1] * 5 + [2] * 2
    assert spread(labels, 1) == [0]
    assert spread(labels, 3) == [0, 5, 10]
    assert spread(labels, 7) == [0, 1, 2, 5, 6, 10, 11]
    assert spread(labels, 9) == [0, 1, 2, 3, 5, 6, 7, 10, 11]  # the third class has no more
    assert spread(labels, 12) == spread(labels, 99) == list(range(12))
    assert spread([-1] * 5, 3) == [0, 1, 2]
    assert spread([1, -1, 0, 1, -1, 0], 3) == [0, 1, 2]
    many = np.random.default_rng(0).integers(0, 3, 20_000).tolist()
    chosen = spread(many, 9_000)
    assert [many[place] for place in chosen].count(2) == 3_000
    with pytest.raises(UsageError, match="at least 1 image, found 0"):
        spread(labels, 0)


def test_the_same_images_without_labels(tmp_path: Path) -> None:
    listing = ImageFolder(write(tmp_path, FILES)).listing()
    bare = listing.without_labels()
    assert (bare.digest, bare.classes, set(bare.labels)) == (listing.digest, (), {NO_LABEL})


@pytest.mark.parametrize(("keys", "problem"), [("aa", "'a' twice"), ("ba", "'b' out of order, before 'a'")])
def test_a_listing_is_sorted_without_repeats(keys: str, problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        Listing(tuple(ListingEntry(key, NO_LABEL, 1) for key in keys), ())


def test_the_digest_is_pinned_and_ignores_labels() -> None:
    pairs = [("a/1.jpg", 3), ("ü.png", 14)]
    listing = Listing(tuple(ListingEntry(key, NO_LABEL, size) for key, size in pairs), ())
    assert listing.digest == "sha256:87952373d8efe60704fd54416f902e216fd9da7d141e56c0d0030e46b6cd8a51"
    assert Listing(tuple(ListingEntry(key, 0, size) for key, size in pairs), ("a",)).digest == listing.digest


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_key_order_is_the_order_of_the_bytes(keys: list[str]) -> None:
    assert sorted(keys) == sorted(keys, key=str.encode)


def test_the_digest_survives_a_move(data_dir: Path, tmp_path: Path) -> None:
    photos = ImageFolder(data_dir / "photos").listing()
    moved = shutil.copytree(data_dir / "photos", tmp_path / "elsewhere")
    assert ImageFolder(Path(moved)).listing().digest == photos.digest
    assert len(photos) >= 60
