"""URLs of caches: which scheme, bucket and prefix, and which of them can be written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from lookonce.shared.errors import UsageError

WRITABLE = ("s3", "gs", "az")
"""Schemes that can be written."""
SCHEMES = (*WRITABLE, "hf", "https", "http")
EXPECTED = (
    "expected s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, or, for reading, https://HOST/PATH or "
    "hf://datasets/OWNER/NAME[@REVISION][/PATH]"
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_REPOSITORY = re.compile(r"datasets/([\w.-]+/[\w.-]+?)(?:@([^/]+))?(?:/(.*))?")


@dataclass(frozen=True, kw_only=True)
class CacheUrl:
    """A cache's place that is no folder."""

    scheme: str
    """One of ``SCHEMES``."""
    place: str
    """The bucket or container; for ``https`` host and port; for ``hf`` the repository, ``OWNER/NAME``."""
    prefix: str
    """What all keys of the cache begin with, without a slash at either end; may be empty."""
    revision: str = "main"
    """For ``hf``: branch, tag or commit. A slash in a branch is written %2F."""

    def __str__(self) -> str:
        """The URL without a slash at its end."""
        place = self.place
        if self.scheme == "hf":
            place = f"datasets/{place}" + (f"@{self.revision}" if self.revision != "main" else "")
        return f"{self.scheme}://{place}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def writable(self) -> bool:
        """Whether objects can be written there."""
        return self.scheme in WRITABLE


def is_url(text: str) -> bool:
    """Whether a text is a URL, of a known scheme or not.

    >>> is_url("s3://bucket/cache"), is_url("caches/c:/x")
    (True, False)
    """
    return _URL.match(text) is not None


def parse_url(text: str, flag: str = "URL") -> CacheUrl:
    """Take a URL apart.

    Args:
        text: as typed.
        flag: the argument, for messages.

    Raises:
        UsageError: it is not a URL of ``SCHEMES``, or part of it is missing.

    >>> parse_url("hf://datasets/me/flowers@v1/int8")
    CacheUrl(scheme='hf', place='me/flowers', prefix='int8', revision='v1')
    >>> str(parse_url("S3://bucket//a/b/"))
    's3://bucket/a/b'
    """
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise UsageError(f"{flag} {text}: {EXPECTED}")
    if scheme in ("http", "https"):
        return _web(text, flag)
    if scheme == "hf":
        return _hub(text, rest, flag)
    place, _, path = rest.partition("/")
    if not place or re.search(r"[\s?#@]", place):
        raise UsageError(f"{flag} {text}: found no bucket; {EXPECTED}")
    return CacheUrl(scheme=scheme, place=place, prefix=_clean(path, text, flag))


def _web(text: str, flag: str) -> CacheUrl:
    parts = urlsplit(text)
    if parts.query or parts.fragment or "@" in parts.netloc or not parts.hostname:
        raise UsageError(
            f"{flag} {text}: expected https://HOST/PATH without user, '?' and '#': every object of the cache is read "
            "below this address"
        )
    return CacheUrl(scheme=parts.scheme.lower(), place=parts.netloc, prefix=_clean(parts.path, text, flag))


def _hub(text: str, rest: str, flag: str) -> CacheUrl:
    match = _REPOSITORY.fullmatch(rest)
    if match is None:
        raise UsageError(f"{flag} {text}: expected hf://datasets/OWNER/NAME[@REVISION][/PATH]")
    revision = (match[2] or "main").replace("%2F", "/").replace("%2f", "/")
    return CacheUrl(scheme="hf", place=match[1], prefix=_clean(match[3] or "", text, flag), revision=revision)


def _clean(path: str, text: str, flag: str) -> str:
    parts = [part for part in path.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise UsageError(f"{flag} {text}: '.' and '..' have no meaning in a URL of objects; leave them out")
    return "/".join(parts)
