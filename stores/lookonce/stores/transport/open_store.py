"""Opens a URL as a store: credentials as the libraries take them, custom endpoints, timeouts, repeats."""

from __future__ import annotations

import datetime
import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from lookonce.shared.errors import StoreError
from lookonce.stores.transport.object_store import ObjectStore
from lookonce.stores.transport.store import Store
from lookonce.stores.transport.urls import CacheUrl

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as Client

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""Longest wait for the next bytes of an answer, if the patience is long enough."""
REPEATS = 4
"""Repeats of one request by obstore, within seconds; ``Patience`` repeats longer."""

OpenClient = Callable[["ClientConfig", "RetryConfig"], "Client"]


def open_store(url: CacheUrl, patience: float) -> Store:
    """The store of a URL. Nothing is requested, but for ``hf``: there the revision becomes a commit.

    Args:
        url: the URL of a cache.
        patience: seconds after which a transfer without progress is given up; requests end sooner.

    Raises:
        StoreError: the hub does not answer, or the credentials of a profile cannot be read.
    """
    if url.scheme == "hf":
        from lookonce.stores.transport.hub import open_hub

        return open_hub(url, lambda place, token: _web_clients(place, patience, token))
    if url.scheme in ("http", "https"):
        reader, writer = _web_clients(str(url), patience, None)
        return ObjectStore(str(url), reader, writer, lists=False)
    reader, writer = _clients({"s3": _s3, "gs": _google, "az": _azure}[url.scheme](url), patience)
    return ObjectStore(str(url), reader, writer)


def _s3(url: CacheUrl) -> OpenClient:
    from obstore.store import S3Store

    given: dict[str, Any] = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        given["endpoint"] = endpoint
    if provider := _profile(str(url)):
        given["credential_provider"] = provider

    def open_client(client: ClientConfig, retry: RetryConfig) -> Client:
        client["allow_http"] = (endpoint or "").startswith("http://")
        return S3Store(url.place, prefix=url.prefix or None, client_options=client, retry_config=retry, **given)

    return open_client


def _profile(url: str) -> Any:
    """boto3's credentials (profiles, single sign-on) where the environment has none and boto3 is installed."""
    stated = ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE")
    if any(os.environ.get(name) for name in stated) or importlib.util.find_spec("boto3") is None:
        return None
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session()
        if session.get_credentials() is None:
            return None
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider(session)
    except BotoCoreError as error:
        raise StoreError(f"{url}: no credentials: {error}: check AWS_PROFILE and ~/.aws") from error


def _google(url: CacheUrl) -> OpenClient:
    from obstore.store import GCSStore

    return lambda client, retry: GCSStore(
        url.place, prefix=url.prefix or None, client_options=client, retry_config=retry
    )


def _azure(url: CacheUrl) -> OpenClient:
    from obstore.store import AzureStore

    return lambda client, retry: AzureStore(
        url.place, prefix=url.prefix or None, client_options=client, retry_config=retry
    )


def _web_clients(place: str, patience: float, token: str | None) -> tuple[Client, Client]:
    """Clients for the objects below an address of a web server."""
    from obstore.store import HTTPStore

    def open_client(client: ClientConfig, retry: RetryConfig) -> Client:
        client["allow_http"] = place.startswith("http://")
        if token:
            client["default_headers"] = {"Authorization": f"Bearer {token}"}
        return HTTPStore(place, client_options=client, retry_config=retry)

    return _clients(open_client, patience)


def _clients(open_client: OpenClient, patience: float) -> tuple[Client, Client]:
    """One client for reading and one for writing, whose requests end at different times.

    A body that is being read ends as soon as no bytes come. What is being sent gives no sign of life, so a part has a
    fixed time, long enough for slow lines.
    """
    seconds = {"connect_timeout": min(CONNECT_SECONDS, patience / 2)}
    reading = {**seconds, "read_timeout": min(READ_SECONDS, patience / 4), "timeout": 7 * 86400.0}
    writing = {**seconds, "timeout": 2.5 * patience}
    retry: RetryConfig = {
        "max_retries": REPEATS,
        "retry_timeout": datetime.timedelta(seconds=patience / 2),
        "backoff": {
            "init_backoff": datetime.timedelta(seconds=min(0.2, patience / 50)),
            "max_backoff": datetime.timedelta(seconds=min(5.0, patience / 10)),
            "base": 2,
        },
    }
    return open_client(_durations(reading), retry), open_client(_durations(writing), retry)


def _durations(seconds: dict[str, float]) -> ClientConfig:
    return cast("ClientConfig", {name: datetime.timedelta(seconds=value) for name, value in seconds.items()})
