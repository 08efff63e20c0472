"""From a tar's members to samples, as the webdataset library groups them: an image, and perhaps its label.

Members that follow one another and share a name up to the first dot are one sample (webdataset's ``__key__``); what
comes after that dot tells what a member is. The image is the first of jpg, jpeg, png, webp, bmp, gif, tif, tiff and ppm
that is there, else the one member whose name ends so (``photo.v2.jpg``). The label is what ``.cls`` holds, else the
field ``label`` of ``.json``: a class's number or its name; -1 is none. The sample's key in the listing is the image's
name in the tar, so that a folder and the tar of that folder have the same keys and, with them, the same views.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from lookonce.shared.errors import SourceError
from lookonce.shared.sources.entry_table import NO_LABEL
from lookonce.shared.sources.tar_members import Member, tar_members

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
"""What an image may be called, the first one is taken."""

LONGEST_LABEL = 200
"""Characters of a class's name."""

LONGEST_DOCUMENT = 1 << 20
"""Bytes of a ``.json`` without an image that is still looked into for a label."""

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_HIDDEN = re.compile(r"(.*/)?\.|__[^/]*__(/|$)", re.DOTALL)


class TarSample(NamedTuple):
    """An image of a tar."""

    key: str
    image: Member
    label: str | None


def tar_samples(path: str) -> Iterator[TarSample]:
    """The samples of a tar that have an image, in their order.

    Raises:
        SourceError: the tar or a label is damaged, a sample has several images, one of them is a link, or a label is
            not beside its image.
    """
    named = ((_NAME.fullmatch(_plain(member.name, path)), member) for member in tar_members(path))
    visible = ((match[1], match[2], member) for match, member in named if match and not _HIDDEN.match(match[0]))
    with open(path, "rb", buffering=0) as file:
        for key, group in groupby(visible, key=lambda one: one[0]):
            members: dict[str, Member] = {}
            for _, extension, member in group:
                if member.link:
                    _require_other(path, extension, member)
                elif members.setdefault(extension.lower(), member) is not member:
                    raise SourceError(f"{path}: expected one {key}.{extension}, found two; give each a name of its own")
            extension = _image(path, key, members)
            if extension is not None:
                image = members[extension]
                yield TarSample(_plain(image.name, path), image, _label(path, file.fileno(), members))
            elif (stray := _stray_label(path, file.fileno(), members)) is not None:
                raise SourceError(
                    f"{path}: expected an image before or behind {stray.name!r}, found none: its label would "
                    "be lost; the files of a sample follow one another: pack them by name (tar --sort=name)"
                )


def _require_other(path: str, extension: str, member: Member) -> None:
    """Refuse a link that stands for an image or a label: left out, its sample would be missing without a word."""
    if extension.lower().rpartition(".")[2] in (*IMAGES, "cls", "json"):
        raise SourceError(
            f"{path}: expected the file {member.name!r}, found a link to {member.link!r}; pack what links lead to "
            "(tar --dereference --hard-dereference)"
        )


def _plain(name: str, path: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceError(f"{path}: expected names in UTF-8, found {name!a}; rename it and pack anew") from error
    while name.startswith("./"):
        name = name[2:]
    return name


def _image(path: str, key: str, members: dict[str, Member]) -> str | None:
    for extension in IMAGES:
        if extension in members:
            return extension
    endings = [extension for extension in members if extension.rpartition(".")[2] in IMAGES]
    if len(endings) > 1:
        raise SourceError(
            f"{path}: expected one image of the sample {key!r}, found {len(endings)} ({', '.join(endings)}); a sample "
            "is what shares a name up to the first dot: leave other dots out of the images' names"
        )
    return endings[0] if endings else None


def _label(path: str, descriptor: int, members: dict[str, Member]) -> str | None:
    named = members.get("cls") or members.get("json")
    if named is None:
        return None
    data = os.pread(descriptor, named.size, named.offset)
    try:
        label = data.decode() if "cls" in members else _field(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: {named.name}: expected a label, found {error}; correct it and pack anew") from error
    label = label and label.strip()
    if label and len(label) > LONGEST_LABEL:
        raise SourceError(f"{path}: {named.name}: expected a class, found a text of {len(label)} characters")
    return None if label == str(NO_LABEL) else label or None


def _stray_label(path: str, descriptor: int, members: dict[str, Member]) -> Member | None:
    """What holds the label of a sample without an image; a ``.json`` may as well be about something else."""
    if "cls" in members:
        return members["cls"]
    document = members.get("json")
    if document is None or document.size > LONGEST_DOCUMENT:
        return None
    try:
        return document if _label(path, descriptor, members) else None
    except SourceError:
        return None


def _field(document: object) -> str | None:
    label = document.get("label") if isinstance(document, dict) else None
    return str(label) if isinstance(label, int | str) and not isinstance(label, bool) else None
