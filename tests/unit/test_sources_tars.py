"""Tars as a source: patterns, samples as webdataset groups them, labels, and tars that are not whole."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from lookonce.shared.errors import SourceError, UsageError
from lookonce.shared.sources import NO_LABEL, ImageFolder, TarShards, open_source
from lookonce.shared.sources import kept_listing as kept
from lookonce.shared.sources.tar_headers import LONGEST_TAIL, tar_members

LONG_AGO = 1_500_000_000


def pack(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def keys(place: Path | str) -> list[str]:
    return [entry.key for entry in open_source(str(place)).listing().entries]


def labelled(place: Path | str) -> tuple[dict[str, int], tuple[str, ...]]:
    listing = open_source(str(place)).listing()
    return {entry.key: entry.label for entry in listing.entries}, listing.classes


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("{000..002}.tar", [0, 1, 2]),
        ("{000,002}.tar", [0, 2]),
        ("*.tar", [0, 1, 2, 10]),
        ("00?.tar", [0, 1, 2]),
        ("00[12].tar", [1, 2]),
        ("001.tar", [1]),
        ("{*,00[1-2]}.tar", [0, 1, 2, 10]),
        ("0{0..1}*.tar", [0, 1, 2, 10]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 1, 2, 10):
        pack(tmp_path / f"{number:03}.tar", [(f"{number}.jpg", b"1")])
    paths = tuple(f"{tmp_path}/{number:03}.tar" for number in numbers)
    assert TarShards.matching(f"{tmp_path}/{pattern}").paths == paths
    monkeypatch.chdir(tmp_path)
    source = open_source(pattern)
    assert isinstance(source, TarShards)
    assert source.paths == paths
    assert len(source.listing()) == len(numbers)


@given(st.integers(0, 300), st.integers(0, 60), st.integers(1, 6))
def test_ranges_are_padded_as_they_are_written(first: int, more: int, width: int) -> None:
    expected = {f"/x/{number:0{width}}.tar" for number in range(first, first + more + 1)}
    paths = TarShards.matching(f"/x/{{{first:0{width}}..{first + more:0{width}}}}.tar").paths
    if len(str(first)) == len(str(first + more)) or width >= 3:  # else one of the ends says how wide the others are
        assert set(paths) == expected
    assert len(paths) == more + 1
    assert list(paths) == sorted(paths)


def test_a_tar_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    assert keys(pack(tmp_path / "odd{1..3}[a].tar", [("x.jpg", b"1")])) == ["x.jpg"]


def test_braces_that_do_not_match() -> None:
    with pytest.raises(UsageError, match=r"expected a pattern such as 'shards/{000..099}.tar'"):
        open_source("/x/{0..3.tar")


def test_tars_that_are_not_there(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", [("x.jpg", b"1")])
    with pytest.raises(SourceError, match=r"expected tars, found 2 of 3 missing \(first: .*/1\.tar\)"):
        open_source(f"{tmp_path}/{{0..2}}.tar").listing()
    with pytest.raises(SourceError, match=r"\*\.tar: expected tars, found no such file"):
        open_source(f"{tmp_path}/none/*.tar").listing()


MEMBERS = [
    ("./d/1.cls", b"3\n"),
    ("./d/1.JPEG", b"one"),  # a sample's members in any order
    ("v1.0/2.png", b"two"),
    ("v1.0/2.jpg", b"jpg"),
    ("v1.0/2.seg.png", b"no"),
    ("v1.0/2.json", b'{"label": 1}'),
    ("3.txt", b"no image"),
    ("4.left.webp", b"four"),
    ("4.json", b'{"other": [1]}'),
    ("about.json", b'{"images": 4'),
    ("other.json", b'{"label": [4]}'),  # about something else
    ("__meta__/5.jpg", b""),
    (".hidden.jpg", b""),
    ("d/._6.jpg", b""),
    ("no-extension", b""),
    ("7.gif", b"seven"),
    ("7.json", b'["list"]'),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves the tar open
def test_samples_are_what_webdataset_groups(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.tar", MEMBERS)
    listed, classes = labelled(path)
    assert listed == {"4.left.webp": NO_LABEL, "7.gif": NO_LABEL, "d/1.JPEG": 3, "v1.0/2.jpg": 1}
    assert classes == ("0", "1", "2", "3")
    source = open_source(str(path))
    read = {entry.key: source.read(entry) for entry in source.listing().entries}
    assert read == {"4.left.webp": b"four", "7.gif": b"seven", "d/1.JPEG": b"one", "v1.0/2.jpg": b"jpg"}
    theirs = [
        {name: value for name, value in sample.items() if not name.startswith("__")} | {"key": sample["__key__"]}
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    ]
    by_key = {sample["key"].removeprefix("./"): sample for sample in theirs}
    for key, data in read.items():
        stem, extension = key.rsplit("/", 1)[-1].split(".", 1)
        prefix = key[: len(key) - len(key.rsplit("/", 1)[-1])]
        assert by_key[prefix + stem][extension.lower()] == data


def test_a_written_webdataset(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(5):
            writer.write({"__key__": f"{number:06}", "jpg": bytes(number + 1), "cls": number % 2, "json": {"a": 1}})
    listed, classes = labelled(tmp_path / "0.tar")
    assert listed == {f"{number:06}.jpg": number % 2 for number in range(5)}
    assert classes == ("0", "1")


def test_names_of_classes_and_folders_of_classes(tmp_path: Path) -> None:
    json_label = json.dumps({"label": "ant"}).encode()
    named = pack(tmp_path / "n.tar", [("1.jpg", b""), ("1.cls", b"cat"), ("2.jpg", b""), ("2.json", json_label)])
    assert labelled(named) == ({"1.jpg": 1, "2.jpg": 0}, ("ant", "cat"))
    folders = pack(tmp_path / "f.tar", [("cat/1.jpg", b""), ("ant/2.jpg", b"")])
    assert labelled(folders) == ({"ant/2.jpg": 0, "cat/1.jpg": 1}, ("ant", "cat"))


CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "labels"

LABELS: list[tuple[list[tuple[str, bytes]], dict[str, int]]] = [
    ([("photo.v2.jpg", b""), ("photo.v2.cls", b"3"), ("b.jpg", b""), ("b.cls", b"1")], {"photo.v2.jpg": 3, "b.jpg": 1}),
    ([("0.input.jpg", b""), ("0.output.cls", b"2")], {"0.input.jpg": 2}),
    ([("0.jpg", b""), ("0.output.cls", b"2")], {"0.jpg": 2}),
    ([("0.v2.jpg", b""), ("0.cls", b"2"), ("0.old.cls", b"1")], {"0.v2.jpg": 2}),
    ([("0.v2.jpg", b""), ("0.v2.cls", b"2"), ("0.cls", b"1")], {"0.v2.jpg": 2}),
    ([("0.v2.jpg", b""), ("0.v2.json", b'{"label": 2}')], {"0.v2.jpg": 2}),
    ([("0.jpg", b""), ("0.size.json", b"{}"), ("0.about.json", b'{"label": 2}')], {"0.jpg": 2}),
    ([("1.jpg", b""), ("1.json", b'{"label": 3.0}')], {"1.jpg": 3}),
    ([("1.jpg", b""), ("1.json", b'{"label": -1.0}')], {"1.jpg": NO_LABEL}),
    ([("1.jpg", b""), ("1.json", b'{"label": null}')], {"1.jpg": NO_LABEL}),
    ([("7", b"GIF89a"), ("7.cls", b"1")], {"7": 1}),
    ([("1.jpg", b""), ("1.cls", b"3.0\n"), ("2.jpg", b""), ("2.cls", b"11.")], {"1.jpg": 3, "2.jpg": 11}),
    ([("1.jpg", b""), ("1.cls", b"-1.0")], {"1.jpg": NO_LABEL}),
    ([("../1.jpg", b""), ("../1.cls", b"2"), ("a/./2.jpg", b"")], {"../1.jpg": 2, "a/./2.jpg": NO_LABEL}),
    ([(".git/1.jpg", b""), ("..1.jpg", b""), ("b.jpg", b""), ("b.cls", b"2")], {"b.jpg": 2}),
]


@pytest.mark.parametrize(("members", "expected"), LABELS)
def test_which_label_belongs_to_an_image(
    tmp_path: Path, members: list[tuple[str, bytes]], expected: dict[str, int]
) -> None:
    assert labelled(pack(tmp_path / "x.tar", members))[0] == expected


@pytest.mark.parametrize(("name", "labels"), [("dots", 2), ("inout", 2)])
def test_the_cases_that_were_reported(name: str, labels: int) -> None:
    tar = CASES / f"{name}.tar"
    if not tar.is_file():
        pytest.skip(f"needs {tar}")
    assert (open_source(str(tar)).listing().labels >= 0).sum() == labels


def test_images_that_are_not_taken_are_counted(tmp_path: Path) -> None:
    members = [
        ("a/1.jpg", b""),
        ("a/1.png", b""),
        ("a/1.depth.pgm", b""),
        ("a/1.txt", b"words"),
        ("b/2.txt", b"words"),
        ("b/3", b"words"),
    ]
    listing = open_source(str(pack(tmp_path / "x.tar", members))).listing()
    assert [entry.key for entry in listing.entries] == ["a/1.jpg"]
    assert listing.notes == (
        "left out: 4 files (1 .pgm, 1 .png, 1 .txt, 1 without extension)",
        "not among the classes, because they contain no image: the folders b",
    )


def test_a_folder_and_its_tar_have_the_same_listing(tmp_path: Path) -> None:
    for name in ("b/1.jpg", "a/2.png", "a/deep/3.photo.jpg", "a/ü.gif"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(name.encode())
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "x", arcname=".")
    folder, packed = ImageFolder(tmp_path / "x").listing(), open_source(f"{tmp_path}/x.tar").listing()
    assert packed.digest == folder.digest
    assert packed.classes == folder.classes
    assert [(e.key, e.label) for e in packed.entries] == [(e.key, e.label) for e in folder.entries]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_an_image_that_is_a_link_is_named(tmp_path: Path, kind: bytes) -> None:
    """As tar packs the second of two hard links, or any symbolic one: a folder source reads both."""
    pack(tmp_path / "x.tar", [("a/1.jpg", b"1")])
    for name, listed in (("a/notes.txt", ["a/1.jpg"]), ("a/2.JPG", None)):
        with tarfile.open(tmp_path / "x.tar", "a") as tar:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "a/1.jpg"
            tar.addfile(header)
        if listed:
            assert keys(tmp_path / "x.tar") == listed
    with pytest.raises(SourceError, match=r"expected the file 'a/2\.JPG', found a link to 'a/1\.jpg'; .*--hard-deref"):
        keys(tmp_path / "x.tar")


def test_minus_one_is_no_class(tmp_path: Path) -> None:
    labels = {"1": b"-1", "2": b"2\n", "3": b"10"}
    path = pack(
        tmp_path / "x.tar",
        [(f"{n}.{end}", data) for n, text in labels.items() for end, data in (("jpg", b""), ("cls", text))],
    )
    listed, classes = labelled(path)
    assert listed == {"1.jpg": NO_LABEL, "2.jpg": 2, "3.jpg": 10}
    assert classes == tuple(map(str, range(11)))


def test_a_key_in_two_tars_names_both(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", [("a.jpg", b"1"), ("b.jpg", b"1")])
    pack(tmp_path / "1.tar", [("c.jpg", b"1"), ("a.jpg", b"2")])
    with pytest.raises(SourceError, match=r"1 more than once: 'a.jpg' in .*0\.tar \(byte 512\) and in .*1\.tar"):
        open_source(f"{tmp_path}/*.tar").listing()


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("a.1.jpg", b""), ("a.2.jpg", b"")], r"expected one image of the sample 'a', found 2 \(1\.jpg, 2\.jpg\)"),
        ([("a.jpg", b""), ("a.JPG", b"")], r"expected one a\.JPG, found two"),
        (
            [("a.jpg", b""), ("a.json", b"{")],
            r"a\.json: expected a label, found text that is not JSON \(line 1, column 2\)",
        ),
        (
            [("a.jpg", b""), ("a.json", b'{"label": [4]}')],
            r"a\.json: expected a label, found \[4\] in its field 'label'",
        ),
        ([("a.jpg", b""), ("a.json", b'{"label": 3.5}')], r"a\.json: expected a label, found 3\.5 in"),
        ([("a.jpg", b""), ("a.json", b'{"label": NaN}')], r"a\.json: expected a label, found NaN in"),
        ([("a.jpg", b""), ("a.json", b'{"label": true}')], r"a\.json: expected a label, found true in"),
        (
            [("a.jpg", b""), ("a.x.cls", b"1"), ("a.y.cls", b"2")],
            r"one label of the sample 'a', found 2 \(x\.cls, y\.cls\)",
        ),
        ([("b.x.cls", b"1"), ("a.jpg", b"")], r"next to 'b\.x\.cls', found none"),
        ([("a.jpg", b""), ("a.cls", b"\xff")], r"a\.cls: expected a label, found bytes that are not UTF-8 text;"),
        ([("a.jpg", b""), ("a.cls", b"x" * 201)], r"a\.cls: expected a class, found a text of 201 characters"),
        (
            [("a.jpg", b""), ("b.jpg", b""), ("a.cls", b"1"), ("b.cls", b"2")],
            r"next to 'a\.cls', found none.*--sort=name",
        ),
        (
            [("a.jpg", b""), ("b.jpg", b""), ("a.json", b'{"label": 1}'), ("b.json", b'{"label": 2}')],
            r"next to 'a\.json', found none.*--sort=name",
        ),
        ([("a.txt", b"")], r"expected images \(jpg .*\), found none in 1 tars, but 1 \.txt; give"),
    ],
)
def test_samples_that_cannot_be_listed(tmp_path: Path, members: list[tuple[str, bytes]], problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        open_source(str(pack(tmp_path / "x.tar", members))).listing()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "found a Git LFS pointer: run 'git lfs pull'"),
        (b"<!DOCTYPE html><html>log in" * 90, "found a web page .* download the file again"),
        (b"PK\x03\x04" + bytes(2000), "found a zip archive; unpack it"),
    ],
)
def test_files_that_came_in_place_of_a_tar(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(SourceError, match=rf"x\.tar: expected a tar, {problem}"):
        keys(tmp_path / "x.tar")


def test_numbers_among_names_of_classes_are_mentioned(tmp_path: Path) -> None:
    mixed = pack(tmp_path / "x.tar", [("1.jpg", b""), ("1.cls", b"cat"), ("2.jpg", b""), ("2.cls", b"3")])
    (note,) = open_source(str(mixed)).listing().notes
    assert note.startswith("labels are numbers (3) and names; all are taken as names")
    numbers = pack(tmp_path / "y.tar", [("1.jpg", b""), ("1.cls", b"7"), ("2.jpg", b""), ("2.cls", b"3")])
    assert open_source(str(numbers)).listing().notes == ()


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.tar", [("\udcff.jpg", b"1")], format=tarfile.GNU_FORMAT)
    with pytest.raises(SourceError, match=r"expected names in UTF-8, found '\\udcff"):
        keys(path)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format(tmp_path: Path, format: int) -> None:
    name = f"{'d' * 90}/{'n' * 90}.jpg"
    source = open_source(str(pack(tmp_path / "x.tar", [(name, b"12"), ("z.jpg", b"3")], format)))
    assert [(entry.key, source.read(entry)) for entry in source.listing().entries] == [(name, b"12"), ("z.jpg", b"3")]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Two members of 600 bytes, each 1536 with its header, and an end mark that fills up 10,240."""
    return pack(tmp_path / "x.tar", [("a.jpg", bytes(600)), ("b.jpg", b"b" * 600)])


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        (0, "byte 0 or before"),
        (100, "byte 100 or before"),
        (800, "byte 800 or before"),
        (1536, "cut off at byte 1536"),
        (1700, "cut off at byte 1700"),
        (2500, "byte 2500 or before"),
        (3071, "byte 3071 or before"),
        (3072, "cut off at byte 3072: the empty blocks"),
        (3400, "cut off at byte 3400"),
    ],
)
def test_a_tar_cut_anywhere_names_tar_and_byte(whole: Path, size: int, problem: str) -> None:
    os.truncate(whole, size)
    with pytest.raises(SourceError, match=rf"{whole}: .*{problem}"):
        keys(whole)


@pytest.mark.parametrize("size", [3584, 4096, 10_240])
def test_a_short_end_mark_is_enough(whole: Path, size: int) -> None:
    os.truncate(whole, size)
    assert keys(whole) == ["a.jpg", "b.jpg"]


def test_damage_behind_the_first_member(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    (tmp_path / "header.tar").write_bytes(data[:1540] + b"?" + data[1541:])
    (tmp_path / "joined.tar").write_bytes(data + data)
    (tmp_path / "zeros.tar").write_bytes(data[:1536] + bytes(LONGEST_TAIL + 1))
    for name, problem in (
        ("header", "header at byte 1536 is damaged"),
        ("joined", "more follows after its end at byte 3072"),
        ("zeros", "from byte 1536 on there are"),
    ):
        with pytest.raises(SourceError, match=rf"{name}\.tar: expected a whole tar, but .*{problem}"):
            keys(tmp_path / f"{name}.tar")


def test_what_cannot_be_read_by_place(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(whole.read_bytes()))
    with pytest.raises(SourceError, match=r"x\.tar\.gz: expected an uncompressed tar, found gzip; decompress it"):
        keys(tmp_path / "x.tar.gz")
    (tmp_path / "no.tar").write_bytes(b"something else" * 100)
    with pytest.raises(SourceError, match=r"no\.tar: expected a whole tar"):
        keys(tmp_path / "no.tar")
    (tmp_path / "folder.tar.1").mkdir()
    with pytest.raises(SourceError, match="Is a directory"):
        list(tar_members(f"{tmp_path}/folder.tar.1"))


def test_a_tar_that_changed_after_it_was_listed(whole: Path) -> None:
    source = open_source(str(whole))
    entry = source.listing().entries[1]
    assert source.read(entry) == b"b" * 600
    pack(whole, [("a.jpg", bytes(600)), ("b.jpg", b"c" * 600)])  # as long as it was
    with pytest.raises(SourceError, match=rf"b\.jpg: expected {whole} as it was listed .*restore it or run again"):
        source.read(entry)
    with pytest.raises(SourceError, match=rf"expected {whole} as it was listed"):
        source.listing()
    whole.unlink()
    with pytest.raises(SourceError, match=r"b\.jpg: expected 600 bytes in .*No such file"):
        source.read(entry)


def test_a_listing_of_tars_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_FROM", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for number in range(3):
        pack(tmp_path / f"{number}.tar", [(f"{number}.jpg", bytes(number)), (f"{number}.cls", b"1")])
        os.utime(tmp_path / f"{number}.tar", (LONG_AGO, LONG_AGO))
    pattern = f"{tmp_path}/*.tar"
    first, again = open_source(pattern).listing(), open_source(pattern).listing()
    assert first == again
    assert again.stored_at is not None
    os.utime(tmp_path / "1.tar", (LONG_AGO, LONG_AGO + 1))
    assert open_source(pattern).listing().stored_at is None
    pack(tmp_path / "3.tar", [("3.jpg", b"333")])
    assert len(open_source(pattern).listing()) == 4
