"""Recognises files that came in place of an image or a tar: pointers of Git LFS and git-annex, and web pages."""

from __future__ import annotations

HEAD_BYTES = 64
"""Bytes of a file's start that are enough to recognise it."""

_POINTERS = {
    b"version https://git-lfs": "a Git LFS pointer: run 'git lfs pull' where the data were cloned",
    b"/annex/objects/": "a git-annex pointer: run 'git annex get' where the data were cloned",
}
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<error", b"<head")


def stand_in(head: bytes) -> str | None:
    """Kind of the file and advice, as part of a sentence; None for any other file.

    Args:
        head: the first ``HEAD_BYTES`` bytes, or more.

    >>> stand_in(b"<!DOCTYPE html><html>")
    'a web page (HTML or XML), as a server sends it in place of a file: download the file again'
    """
    for start, kind in _POINTERS.items():
        if head.startswith(start):
            return kind
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "a web page (HTML or XML), as a server sends it in place of a file: download the file again"
    return None
