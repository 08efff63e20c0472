"""A real S3 server, a proxy before it, and caches to copy."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import BUCKET, CREDENTIALS, Proxy, s3_server

PATIENCE = 6.0
"""Seconds; long enough for every failure that passes in these tests, and for a busy machine."""

collect_ignore = ["kill_runs.py"]  # a script of test_kills.py that imports the one beside it

_places = itertools.count()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the server."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as address:
        yield address


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, which the environment names as the endpoint."""
    running = Proxy(s3)
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": running.address}.items():
        monkeypatch.setenv(name, value)
    yield running
    running.close()


@pytest.fixture
def url(proxy: Proxy) -> str:
    """A place of the test's own, behind the proxy."""
    return f"s3://{BUCKET}/place-{next(_places)}/cache"


@pytest.fixture(scope="session")
def files() -> Callable[[Path], dict[str, str]]:
    """Digest of every file of a cache but its lock, by path."""

    def found(root: Path) -> dict[str, str]:
        return {
            path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.name != ".lock"
        }

    return found
