"""Servers and networks that fail during a push or a pull: what passes is repeated, the rest is one sentence."""

from __future__ import annotations

import errno
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_server import CREDENTIALS, Fault, Proxy, free_port

from lookonce.cache.verify.verification import verify_cache
from lookonce.shared.errors import IntegrityError, LookonceError, StorageError, StoreError
from lookonce.stores.pull import PullConfig, pull_cache
from lookonce.stores.push import PushConfig, push_cache
from lookonce.stores.transport.open_store import open_store
from lookonce.stores.transport.urls import parse_url
from lookonce.stores.verify_url import verify_url

PATIENCE = 6.0
SHORT = 1.5
"""Seconds of patience where it is known to run out."""


def push(cache: Path, url: str, patience: float = PATIENCE) -> Any:
    return push_cache(PushConfig(cache=cache, url=url, patience=patience))


def pull(url: str, out: Path, patience: float = PATIENCE) -> Any:
    return pull_cache(PullConfig(url=url, out=out, patience=patience))


@pytest.fixture
def cache(training_cache: Callable[..., Path]) -> Path:
    """Three tars, of which none is small enough to fit into one packet."""
    return training_cache(seeds=(0,), container="webdataset")


PASSING = {
    "slow down": Fault(kind="status", status=503, body="<Error><Code>SlowDown</Code></Error>", times=7),
    "too many requests": Fault(kind="status", status=429, times=7),
    "internal error": Fault(kind="status", status=500, times=7),
    "lost answer": Fault(kind="forget", times=3),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_repeated(cache: Path, url: str, proxy: Proxy, tmp_path: Path, files, name: str) -> None:
    fault = PASSING[name]
    for method in ("PUT", "GET"):
        again = Fault(kind=fault.kind, method=method, status=fault.status, body=fault.body, times=fault.times, after=1)
        proxy.faults.append(again)
    push(cache, url)
    pull(url, tmp_path / "out")
    assert all(fault.seen > fault.times for fault in proxy.faults)
    assert files(tmp_path / "out") == files(cache)
    assert verify_url(url, full=True, patience=PATIENCE).whole


SPOILT = {
    "short body": [Fault(kind="cut", path=".tar", times=2)],
    "short documents": [Fault(kind="cut", path=".json", times=3)],
    "short body, ranges ignored": [
        Fault(kind="cut", path="00001.tar", times=1),
        Fault(kind="whole", path="00001.tar", times=1, after=1),
    ],
    "half a body, then nothing": [Fault(kind="half", path="00001.tar", times=1)],
    "no answer": [Fault(kind="stall", path="00001.tar", times=1)],
    "another byte": [Fault(kind="flip", path="00001.tar", times=1)],
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_answers_end_with_the_right_bytes(
    cache: Path, url: str, proxy: Proxy, tmp_path: Path, files, name: str
) -> None:
    push(cache, url)
    proxy.faults = [Fault(**{**vars(fault), "seen": 0}) for fault in SPOILT[name]]
    pull(url, tmp_path / "out")
    assert all(fault.seen for fault in proxy.faults)
    assert files(tmp_path / "out") == files(cache)


LASTING = {
    "down": (Fault(kind="status", status=503), r"the server answers 503; nothing has moved for 2 s: check the network"),
    "overloaded": (Fault(kind="status", status=429), r"the server answers 429; nothing has moved"),
    "always short": (Fault(kind="cut", path="00001.tar"), r"shard-00001\.tar: .*; nothing has moved for 2 s"),
    "silent": (Fault(kind="stall", path="00001.tar"), r"shard-00001\.tar: the server does not answer in time; nothing"),
    "denied": (
        Fault(kind="status", path="00001.tar", status=403, body="<Error><Code>AccessDenied</Code></Error>"),
        r"shard-00001\.tar: access is denied \(403 AccessDenied\); S3 answers so for a missing object, too",
    ),
    "expired": (
        Fault(kind="status", path="00001.tar", status=400, body="<Error><Code>ExpiredToken</Code></Error>"),
        r"shard-00001\.tar: the credentials have expired \(400 ExpiredToken\): renew them .* goes on where it stopped",
    ),
    "wrong": (
        Fault(kind="status", status=403, body="<Error><Code>InvalidAccessKeyId</Code></Error>"),
        r"the credentials are not accepted \(403 InvalidAccessKeyId\): check AWS_ACCESS_KEY_ID",
    ),
    "other region": (Fault(kind="status", status=301), r"is in another region: set AWS_REGION"),
    "wrong clock": (
        Fault(kind="status", status=403, body="<Error><Code>RequestTimeTooSkewed</Code></Error>"),
        r"the clock of this machine is wrong",
    ),
    "strange": (Fault(kind="status", status=418, body="teapot"), r"the server answers 418: .*teapot"),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_ends_in_a_sentence_with_the_object(
    cache: Path, url: str, proxy: Proxy, tmp_path: Path, files, name: str
) -> None:
    push(cache, url)
    fault, sentence = LASTING[name]
    fault.seen = 0
    proxy.faults, began = [fault], time.monotonic()
    with pytest.raises(StoreError, match=sentence) as ended:
        pull(url, tmp_path / "out", SHORT)
    assert time.monotonic() - began < 20 * SHORT
    assert ended.value.message.startswith(url)
    assert "damage" not in ended.value.message
    proxy.faults = []
    pull(url, tmp_path / "out")
    assert files(tmp_path / "out") == files(cache)


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_push_through_bad_weather_leaves_no_cache(cache: Path, url: str, proxy: Proxy, method: str) -> None:
    for number, (kind, status) in enumerate((("status", 503), ("status", 403), ("stall", 0), ("forget", 0))):
        place = f"{url}-{number}"
        proxy.faults = [Fault(kind=kind, status=status, method=method, after=4)]
        with pytest.raises(StoreError, match=r"^s3://bucket/place-"):
            push(cache, place, SHORT)
        proxy.faults = []
        assert [finding.path for finding in verify_url(place, patience=PATIENCE).findings] == ["manifest.json"]
        push(cache, place)
        assert verify_url(place, full=True, patience=PATIENCE).whole


def test_an_object_that_is_replaced_while_it_is_read(cache: Path, url: str, proxy: Proxy, tmp_path: Path) -> None:
    """The ETag is another one, so the halves of two objects are never joined."""
    push(cache, url)
    path, store = "seed-0000/shard-00001.tar", open_store(parse_url(url), PATIENCE)
    size = (cache / path).stat().st_size
    fault = Fault(kind="replace", path=path, times=1, action=lambda: store.write(path, bytes(size), "sha256:0"))
    proxy.faults = [fault]
    with pytest.raises(IntegrityError, match=r"00001\.tar: the digest of its bytes is .* it was replaced or damaged"):
        pull(url, tmp_path / "out")
    assert fault.seen > 1
    assert not (tmp_path / "out" / path).exists()
    found = {finding.path for finding in verify_cache(tmp_path / "out", full=True).findings}
    assert found == {"receipts/seed-0000/shard-00001.json"}, "the other shards are there"


def test_bytes_that_are_always_wrong_are_not_written(cache: Path, url: str, proxy: Proxy, tmp_path: Path) -> None:
    push(cache, url)
    proxy.faults = [Fault(kind="flip", path="00002.tar")]
    with pytest.raises(IntegrityError, match=r"s3://bucket/.*/shard-00002\.tar: the digest of its bytes"):
        pull(url, tmp_path / "out")
    assert sum("00002.tar" in path for _, path in proxy.requests if "GET" in _) == 2
    report = verify_url(url, full=True, patience=PATIENCE)
    assert [(finding.path, finding.kind) for finding in report.findings] == [("seed-0000/shard-00002.tar", "damaged")]


def test_verify_tells_what_cannot_be_read_from_what_is_damaged(cache: Path, url: str, proxy: Proxy) -> None:
    push(cache, url)
    proxy.faults = [Fault(kind="status", path="00002.tar", status=403)]
    report = verify_url(url, full=True, patience=PATIENCE)
    assert (report.exit_code, [finding.kind for finding in report.findings]) == (3, ["not readable"])
    assert "does not mean that it is damaged: access is denied (403)" in report.text()


def test_a_missing_bucket_and_a_wrong_address(cache: Path, proxy: Proxy, tmp_path: Path, monkeypatch) -> None:
    for work in (lambda: push(cache, "s3://nowhere/x"), lambda: pull("s3://nowhere/x", tmp_path / "out")):
        with pytest.raises(StoreError, match=r"s3://nowhere/x/.*: there is no such bucket \(404 NoSuchBucket\)"):
            work()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreError, match=r"manifest\.json: no connection to the server; nothing has moved for 2 s"):
        push(cache, "s3://bucket/x", SHORT)


def test_without_credentials(cache: Path, proxy: Proxy, monkeypatch, tmp_path: Path) -> None:
    for name in (*CREDENTIALS, "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}/169.254.169.254")
    with pytest.raises(StoreError, match=r"found no credentials; give them by AWS_ACCESS_KEY_ID and AWS_SECRET"):
        push(cache, "s3://bucket/x", SHORT)
    (tmp_path / "none").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\nregion = us-east-1\n")
    push(cache, "s3://bucket/of-a-profile")
    monkeypatch.setenv("AWS_PROFILE", "another")
    with pytest.raises(StoreError, match=r"another.*: check AWS_PROFILE and ~/.aws"):
        push(cache, "s3://bucket/x", SHORT)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing the second tar fails as on a full disk."""
    left = [1]

    def sync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if ".tar" in name:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    monkeypatch.setattr(os, "fsync", sync)


def test_a_disk_that_is_full(cache: Path, url: str, tmp_path: Path, full_disk, files) -> None:
    push(cache, url)
    with pytest.raises(StorageError, match=r"shard-0000\d\.tar: writing failed: No space left .* make room") as ended:
        pull(url, tmp_path / "out")
    assert not isinstance(ended.value, StoreError)
    assert not [name for name in files(tmp_path / "out") if ".tmp-" in name]


def test_errors_cross_process_borders() -> None:
    error = StoreError("s3://b/x: the server answers 503", may_pass=True, unsupported=True)
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.may_pass, again.unsupported) == (error.message, True, True)
    assert isinstance(error, LookonceError)
