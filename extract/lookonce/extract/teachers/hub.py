"""Downloads weights from the hub, and explains failures: access, names, limits, network, disk, damage."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
_DAMAGE = frozenset({"SafetensorError", "UnpicklingError", "PytorchStreamReader", "BadZipFile", "EOFError"})
_UNREACHABLE = re.compile(r"Connect|Timeout|NetworkError|ProtocolError|ReadError|ProxyError|SSLError|gaierror|URLError")
"""Names of errors of HTTP clients and of Python."""


def fetch_first(repository: str, files: Sequence[str]) -> Path:
    """The first of some files that a hub repository contains, from the hub's cache or the hub.

    Raises:
        EntryNotFoundError: the repository contains none of them.
        Exception: any error of the hub's client.
    """
    missing: EntryNotFoundError | None = None
    for name in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name))
        except LocalEntryNotFoundError:  # the hub is not reachable: only cached files count
            cached = cached_file(repository, files)
            if cached is None:
                raise
            return cached
        except EntryNotFoundError as error:
            missing = error
    raise missing or ValueError("files: expected at least one name, found none")


def cached_file(repository: str, files: Sequence[str]) -> Path | None:
    """The first of some files in the hub's cache; None if there is none of them."""
    for name in files:
        found = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


def reason_and_advice(error: BaseException, repository: str, files: Sequence[str]) -> str:
    """The reason of a failed download and what to do, as the end of a sentence.

    Args:
        error: raised by timm, open_clip or the hub's client.
        repository: ``OWNER/NAME`` on the hub; empty for weights from other places.
        files: names of the weights in the repository.
    """
    chain, page = list(_chain(error)), f"{constants.ENDPOINT}/{repository}"
    names = [type(one).__name__ for one in chain]
    for one in chain:
        if isinstance(one, OSError) and one.errno in FULL_DISK:
            return (
                f"the disk with the hub's cache {constants.HF_HUB_CACHE} is full: make room there, or set "
                "HF_HOME to a folder on another disk"
            )
        if isinstance(one, OSError) and one.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            where = os.fsdecode(one.filename) if one.filename else constants.HF_HUB_CACHE
            return f"{where}: {one.strerror}: correct the permissions, or set HF_HOME to a folder of your own"
    if status := next((code for code in map(_status, chain) if code), 0):
        return _status_reason(status, chain, page, gated="GatedRepoError" in names)
    if constants.HF_HUB_OFFLINE or "OfflineModeIsEnabled" in names:
        return (
            f"it is not in the hub's cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE=1 forbids the download: "
            "unset it on a machine with a network"
        )
    if any("onsistency check failed" in str(one) or "peer closed connection" in str(one) for one in chain):
        return "the download was cut off: run again, it resumes where it stopped"
    if any(map(_UNREACHABLE.search, names)):
        return (
            f"{constants.ENDPOINT} cannot be reached ({_short(chain[-1])}): check the network, the proxy and "
            "HF_ENDPOINT, or download the weights on a machine with a network"
        )
    cached = cached_file(repository, files) if repository else None
    if cached is not None and (_DAMAGE & set(names) or isinstance(error, RuntimeError | ValueError)):
        return f"the file in the hub's cache is damaged ({_short(chain[0])}): delete {cached.resolve()} and run again"
    return f"{type(error).__name__}: {_short(error)}: download them on a machine with a network"


def _status_reason(status: int, chain: Sequence[BaseException], page: str, *, gated: bool) -> str:
    unknown = any(type(one).__name__ == "RepositoryNotFoundError" for one in chain)
    if gated or (status in (401, 403) and not unknown):
        return (
            f"access to {page} is restricted ({status}): accept its terms on that page, log in with 'hf auth login' "
            "(or set HF_TOKEN), and run again"
        )
    if status == 404 and any("Entry" in type(one).__name__ for one in chain):
        return f"{page} contains no weights under the names that are known (404): check the list of its files"
    if unknown or status == 404:
        return f"there is no {page} ({status}), or it is private: check HF_ENDPOINT, or log in with 'hf auth login'"
    if status == 429:
        wait = next((seconds for one in chain if (seconds := _retry_after(one))), "some minutes")
        return f"the hub answers 429, too many requests: wait {wait} and run again; 'hf auth login' raises the limit"
    if status >= 500:
        return f"the hub answers {status}, an error of the server: run again later"
    return f"the hub answers {status} ({_short(chain[0])}): open {page} to see why"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the error first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _status(error: BaseException) -> int:
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and status >= 400 else 0


def _retry_after(error: BaseException) -> str:
    seconds = str(getattr(getattr(error, "response", None), "headers", {}).get("retry-after", ""))
    return f"{seconds} s" if seconds.isdecimal() else ""


def _short(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"{text or type(error).__name__:.160}"
