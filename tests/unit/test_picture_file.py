"""Pictures are written in the format that their suffix says, or refused by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lookonce.cache.show.picture_file import FORMATS, picture_format, write_picture
from lookonce.shared.errors import UsageError

BEGINNINGS = {
    "png": b"\x89PNG",
    "jpg": b"\xff\xd8\xff",
    "jpeg": b"\xff\xd8\xff",
    "webp": b"RIFF",
    "svg": b"<?xml",
    "pdf": b"%PDF",
}


@pytest.mark.parametrize("suffix", [*FORMATS, "PNG"])
def test_the_suffix_is_obeyed(tmp_path: Path, suffix: str) -> None:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    write_picture(figure, tmp_path / f"picture.{suffix}")
    assert (tmp_path / f"picture.{suffix}").read_bytes().startswith(BEGINNINGS[suffix.lower()])


@pytest.mark.parametrize("name", ["picture", "picture.bmp", "picture.png.gz", ".png"])
def test_others_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"--plot .*: expected a name that ends in one of \.png, \.jpg, .*\.pdf"):
        picture_format(Path(name), "--plot")
    with pytest.raises(UsageError):
        write_picture(Figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())
