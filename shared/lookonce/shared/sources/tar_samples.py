"""Groups the members of a tar into samples, like the webdataset library: an image, and possibly its label.

Consecutive members with the same name up to the first dot are one sample (webdataset's ``__key__``). The rest of the
name is the extension. The image is the member with the first extension in ``IMAGES``, else the only member whose name
ends in one (``photo.v2.jpg``), else the same for ``RARER_IMAGES``, else a member without extension that starts with the
bytes of an image. The label is the content of ``.cls``, else the field ``label`` of ``.json``: number or name of a
class; -1 means no label. Of several, the one with the image's name is used (``photo.v2.cls``), then ``.cls`` itself,
then the only other one (``000.output.cls`` beside ``000.input.jpg``). The key of a sample is the name of its image in
the tar, so a folder and the tar of this folder have the same keys and therefore the same views.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple

from lookonce.shared.errors import SourceError
from lookonce.shared.sources.entry_table import NO_LABEL
from lookonce.shared.sources.image_names import HEAD_BYTES, IMAGES, RARER_IMAGES, begins_like_image
from lookonce.shared.sources.tar_headers import Member, tar_members

LONGEST_LABEL = 200
"""Most characters of a class name."""

LONGEST_DOCUMENT = 1 << 20
"""Most bytes of a ``.json`` without an image that is searched for a label."""

SHOWN = 60
"""Most characters of a field that an error shows."""

_WHOLE_FLOAT = re.compile(r"-?[0-9]+\.0*")

ALL_IMAGES = frozenset(IMAGES + RARER_IMAGES)

_NAME = re.compile(r"((?:.*/)?[^./]+)(?:\.([^/]*))?", re.DOTALL)
_HIDDEN = re.compile(r"(.*/)?\.(?!\.?/)|__[^/]*__(/|$)", re.DOTALL)
"""A name with a hidden part; the parts ``.`` and ``..`` hide nothing."""


class TarSample(NamedTuple):
    """An image of a tar, with its key and label."""

    key: str
    image: Member
    label: str | None


def tar_samples(path: str, left_out: Counter[str], folders: set[str]) -> Iterator[TarSample]:
    """The samples of a tar with an image, in their order.

    Args:
        path: the tar.
        left_out: is updated with the extensions of members of samples without an image, and of unused images.
        folders: is updated with the names of all top-level folders.

    Raises:
        SourceError: the tar or a label is damaged, a sample has several images, an image is a link, or a label is
            not next to its image.
    """
    named = ((_NAME.fullmatch(_plain(member.name, path)), member) for member in tar_members(path))
    visible = ((match[1], match[2] or "", member) for match, member in named if match and not _HIDDEN.match(match[0]))
    with open(path, "rb", buffering=0) as file:
        for key, group in groupby(visible, key=lambda one: one[0]):
            members: dict[str, Member] = {}
            for _, extension, member in group:
                if member.link:
                    _require_other(path, extension, member)
                elif members.setdefault(extension.lower(), member) is not member:
                    raise SourceError(f"{path}: expected one {key}.{extension}, found two; give each a name of its own")
            folder, slash, _ = key.partition("/")
            if slash:
                folders.add(folder)
            extension = _image(path, key, members, file.fileno())
            beside = [name for name in members if name != extension and (extension is None or _end(name) in ALL_IMAGES)]
            if beside:
                left_out.update(f".{_end(name)}" if name else "without extension" for name in beside)
            if extension is not None:
                image, label = members[extension], _label(path, file.fileno(), key, extension, members)
                yield TarSample(_plain(image.name, path), image, label)
            elif (stray := _stray_label(path, file.fileno(), members)) is not None:
                raise SourceError(
                    f"{path}: expected an image next to {stray.name!r}, found none: its label would be lost; the files "
                    "of a sample must be consecutive: pack them by name (tar --sort=name)"
                )


def _require_other(path: str, extension: str, member: Member) -> None:
    """Refuse a link in place of an image or a label, which would otherwise be missing silently."""
    if _end(extension.lower()) in (*ALL_IMAGES, "cls", "json"):
        raise SourceError(
            f"{path}: expected the file {member.name!r}, found a link to {member.link!r}; pack what links lead to "
            "(tar --dereference --hard-dereference)"
        )


def _plain(name: str, path: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{path}: expected names in UTF-8, found {name!a}; rename it and pack the tar again"
        ) from error
    while name.startswith("./"):
        name = name[2:]
    return name


def _end(extension: str) -> str:
    return extension.rpartition(".")[2]


def _image(path: str, key: str, members: dict[str, Member], descriptor: int) -> str | None:
    for names in (IMAGES, RARER_IMAGES):
        for extension in names:
            if extension in members:
                return extension
        endings = [extension for extension in members if _end(extension) in names]
        if len(endings) > 1:
            raise SourceError(
                f"{path}: expected one image of the sample {key!r}, found {len(endings)} ({', '.join(endings)}); a "
                "sample is what shares a name up to the first dot: leave other dots out of the images' names"
            )
        if endings:
            return endings[0]
    bare = members.get("")
    if bare is not None and begins_like_image(os.pread(descriptor, min(bare.size, HEAD_BYTES), bare.offset)):
        return ""
    return None


def _label(path: str, descriptor: int, key: str, image: str, members: dict[str, Member]) -> str | None:
    """The label of a sample with the image ``image``."""
    for kind, field_of in (("cls", _text), ("json", _field)):
        like_image = f"{image.rpartition('.')[0]}.{kind}".removeprefix(".")
        named = [name for name in (like_image, kind) if name in members][:1]
        named = named or [name for name in members if _end(name) == kind]
        labels = {name: _read(path, descriptor, members[name], field_of) for name in named}
        if kind == "json" and len(labels) > 1:  # the others contain no label
            labels = {name: label for name, label in labels.items() if label is not None}
        if len(labels) > 1:
            raise SourceError(
                f"{path}: expected one label of the sample {key!r}, found {len(labels)} ({', '.join(labels)}); call "
                f"the one that counts like the image, {like_image}"
            )
        if labels:
            return next(iter(labels.values()))
    return None


def _read(path: str, descriptor: int, member: Member, field_of: Callable[[bytes], str | None]) -> str | None:
    try:
        label = field_of(os.pread(descriptor, member.size, member.offset))
    except (ValueError, RecursionError) as error:
        found = str(error)
        if isinstance(error, UnicodeDecodeError):
            found = "bytes that are not UTF-8 text"
        elif isinstance(error, json.JSONDecodeError):
            found = f"text that is not JSON (line {error.lineno}, column {error.colno})"
        raise SourceError(
            f"{path}: {member.name}: expected a label, found {found}; correct it and pack the tar again"
        ) from error
    label = label and label.strip()
    if label and len(label) > LONGEST_LABEL:
        raise SourceError(f"{path}: {member.name}: expected a class, found a text of {len(label)} characters")
    return None if label == str(NO_LABEL) else label or None


def _stray_label(path: str, descriptor: int, members: dict[str, Member]) -> Member | None:
    """The member with the label of a sample without an image; a ``.json`` need not contain a label."""
    for name, member in members.items():
        if _end(name) == "cls":
            return member
    document = members.get("json")
    if document is None or document.size > LONGEST_DOCUMENT:
        return None
    try:
        return document if _read(path, descriptor, document, _field) else None
    except SourceError:
        return None


def _text(data: bytes) -> str:
    """The text of a ``.cls``; 3.0 is 3."""
    text = data.decode().strip()
    return text.partition(".")[0] if _WHOLE_FLOAT.fullmatch(text) else text


def _field(data: bytes) -> str | None:
    """The field ``label`` of a JSON document, or None; 3.0 is 3."""
    document = json.loads(data)
    label = document.get("label") if isinstance(document, dict) else None
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if label is None or isinstance(label, str):
        return label
    if isinstance(label, bool) or not isinstance(label, int):
        raise ValueError(
            f"{json.dumps(label)[:SHOWN]} in its field 'label', which is neither a whole number nor a name"
        )
    return str(label)
