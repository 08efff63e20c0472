"""A dataset repository of the Hugging Face hub as a store for reading: one commit of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from lookonce.shared.errors import StoreError
from lookonce.stores.transport.object_store import ObjectStore
from lookonce.stores.transport.urls import CacheUrl

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

ANSWER_SECONDS = 30.0


class HubStore(ObjectStore):
    """The objects of one commit, so that all of a pull is from the same state of the repository.

    Args:
        url: the URL, for messages.
        clients: clients for the addresses of the commit's files.
        files: bytes of every file below the URL, by path; requested at most once.
    """

    def __init__(self, url: str, clients: tuple[Client, Client], files: Callable[[], dict[str, int]]) -> None:
        super().__init__(url, *clients)
        self._files = functools.cache(files)

    def sizes(self, folder: str) -> dict[str, int]:
        """See ``Store.sizes``."""
        start = f"{folder}/" if folder else ""
        return {path: size for path, size in self._files().items() if path.startswith(start)}

    def top(self) -> list[str]:
        """See ``Store.top``."""
        return sorted({path.partition("/")[0] for path in self._files()})


def open_hub(url: CacheUrl, open_clients: Callable[[str, str | None], tuple[Client, Client]]) -> HubStore:
    """The store of a repository at the commit that its revision is now.

    Args:
        url: of scheme ``hf``.
        open_clients: from an address and a token to clients.

    Raises:
        StoreError: the hub refuses, has no such repository or revision, or does not answer.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()

    def ask(question: Callable[[], str]) -> str:
        try:
            return question()
        except Exception as error:  # of the hub's client and of the HTTP library below it
            raise _hub_error(error, url) from error

    commit = ask(lambda: api.dataset_info(url.place, revision=url.revision, timeout=ANSWER_SECONDS).sha or "")
    start = f"{url.prefix}/" if url.prefix else ""

    def files() -> dict[str, int]:
        try:
            tree = api.list_repo_tree(
                url.place, url.prefix or None, recursive=True, revision=commit, repo_type="dataset"
            )
            return {entry.path.removeprefix(start): entry.size for entry in tree if isinstance(entry, RepoFile)}
        except Exception as error:  # as above
            raise _hub_error(error, url) from error

    place = f"{constants.ENDPOINT}/datasets/{url.place}/resolve/{commit}/{quote(url.prefix)}".rstrip("/")
    return HubStore(str(url), open_clients(place, get_token()), files)


def _hub_error(error: Exception, url: CacheUrl) -> StoreError:
    response = getattr(error, "response", None)
    status, name = getattr(response, "status_code", 0), type(error).__name__
    if name in ("RepositoryNotFoundError", "RevisionNotFoundError") or status == 404:
        what = "revision" if name == "RevisionNotFoundError" else "dataset"
        return StoreError(
            f"{url}: the hub has no such {what} ({status or name}), or it is private: check the name, or log in with "
            "'hf auth login'"
        )
    if name == "GatedRepoError" or status in (401, 403):
        return StoreError(
            f"{url}: access is restricted ({status}): accept its terms on the hub, and log in with 'hf auth login' "
            "(or set HF_TOKEN)"
        )
    if status == 429 or status >= 500:
        return StoreError(f"{url}: the hub answers {status}", may_pass=True)
    if name == "OfflineModeIsEnabled":
        return StoreError(f"{url}: HF_HUB_OFFLINE forbids to ask the hub: unset it")
    if status:
        return StoreError(f"{url}: the hub answers {status}")
    return StoreError(f"{url}: the hub cannot be reached ({name})", may_pass=True)
