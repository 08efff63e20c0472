"""Caches that are pushed to an S3 server and pulled back: same bytes, seeds, order, refusals, two pushes at once."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from forked import machine_error_of_child
from s3_server import Fault, Proxy

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.shared.errors import (
    BusyError,
    CacheError,
    CacheMismatchError,
    IncompleteCacheError,
    IntegrityError,
    LookonceError,
    RecipeMismatchError,
    StorageError,
)
from lookonce.stores import pull as pull_module
from lookonce.stores.describe_url import describe_url
from lookonce.stores.pull import PullConfig, PullSummary, pull_cache
from lookonce.stores.push import PushConfig, PushSummary, push_cache
from lookonce.stores.transport.open_store import open_store
from lookonce.stores.transport.store import Store
from lookonce.stores.transport.urls import parse_url
from lookonce.stores.verify_url import verify_url

PATIENCE = 6.0


def push(cache: Path, url: str, **changes: Any) -> PushSummary:
    return push_cache(PushConfig(cache=cache, url=url, patience=PATIENCE, **changes))


def pull(url: str, out: Path, **changes: Any) -> PullSummary:
    return pull_cache(PullConfig(url=url, out=out, patience=PATIENCE, **changes))


def store_of(url: str) -> Store:
    return open_store(parse_url(url), PATIENCE)


def paths(url: str) -> set[str]:
    return set(store_of(url).sizes(""))


KINDS: dict[str, dict[str, Any]] = {
    "zarr": {"holes": (2, 5)},
    "webdataset": {"container": "webdataset", "seeds": (0, 3)},
    "klt": {"precision": "klt2"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_back_is_what_was_sent(training_cache, url: str, tmp_path: Path, files, kind: str) -> None:
    cache = training_cache(**KINDS[kind])
    first = push(cache, url)
    assert (first.objects_sent, first.bytes_sent) == (first.objects, first.bytes)
    assert paths(url) == set(files(cache)), "every file, and no claim that stayed"
    report = verify_url(url, full=True, patience=PATIENCE)
    assert report.exit_code == 0
    assert report.bytes == sum(receipt.content_bytes for receipt in receipts(cache))
    pulled = pull(url, tmp_path / "out")
    assert files(tmp_path / "out") == files(cache)
    assert verify_cache(tmp_path / "out", full=True).exit_code == 0
    assert (pulled.bytes_fetched, pulled.seeds) == (pulled.bytes, first.seeds)
    assert push(cache, url).objects_sent == pull(url, tmp_path / "out").objects_fetched == 0
    assert describe_url(url).document() == {**describe_local(cache), "cache": url}


def receipts(cache: Path) -> list[Any]:
    reader = CacheReader(cache)
    return [receipt for seed in reader.seeds for receipt in reader.receipts(seed)]


def describe_local(cache: Path) -> dict[str, Any]:
    from lookonce.cache.show.description import describe_cache

    return dict(describe_cache(cache).document())


def test_objects_of_many_parts(training_cache, url: str, proxy: Proxy, tmp_path: Path, files) -> None:
    cache = training_cache(samples=60, shard_size=60, view_size=256, seeds=(0,))
    assert max(stored.bytes for receipt in receipts(cache) for stored in receipt.objects) > 8 << 20
    push(cache, url)
    assert any("partNumber=2" in path for _, path in proxy.requests)
    assert push(cache, url).objects_sent == 0
    pull(url, tmp_path / "out")
    assert files(tmp_path / "out") == files(cache)


def test_objects_go_first_then_receipts_then_the_manifest(training_cache, url: str, proxy: Proxy) -> None:
    push(training_cache(), url)
    written = [path.partition("/cache/")[2] for method, path in proxy.requests if method == "PUT"]
    kinds = [path.partition("/")[0] for path in written if not path.startswith(".push")]
    first_receipt = kinds.index("receipts")
    assert {kind[:5] for kind in kinds[:first_receipt]} == {"seed-"}
    assert set(kinds[first_receipt:-1]) == {"receipts"}
    assert kinds[-1] == "manifest.json"


def test_some_seeds_are_a_cache(training_cache, url: str, tmp_path: Path, files) -> None:
    cache, out = training_cache(seeds=(0, 1, 2)), tmp_path / "out"
    push(cache, url, seeds="0")
    assert push(cache, url, seeds="1-2").seeds == (1, 2)
    assert pull(url, out, seeds="1").seeds == (1,)
    assert CacheReader(out).seeds == (1,)
    assert verify_cache(out, full=True).exit_code == 0
    assert pull(url, out).seeds == (0, 1, 2)
    assert files(out) == files(cache)


def test_what_cannot_be_pushed_or_pulled_is_said(training_cache, url: str, tmp_path: Path, capsys) -> None:
    cache = training_cache()
    with pytest.raises(CacheError, match=r"no manifest\.json here, so this is not a lookonce cache, or a push"):
        pull(url, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CacheMismatchError, match="there is no seed 7"):
        push(cache, url, seeds="7")
    (cache / "receipts/seed-0001/shard-00001.json").unlink()
    with pytest.raises(IncompleteCacheError, match="seed 1 has shards without receipts"):
        push(cache, url, seeds="1")
    assert push(cache, url).seeds == (0,)
    assert "seeds 1 are not complete and are not pushed" in capsys.readouterr().err
    with pytest.raises(CacheMismatchError, match="there is no seed 1"):
        pull(url, tmp_path / "out", seeds="1")
    store_of(url).delete("receipts/seed-0000/shard-00001.json")
    with pytest.raises(IncompleteCacheError, match="seed 0 is not complete there"):
        pull(url, tmp_path / "out")


def test_another_cache_is_left_alone(training_cache, url: str, tmp_path: Path) -> None:
    cache = training_cache()
    push(cache, url)
    before = paths(url)
    listing, other = training_cache("listing", listing="2"), training_cache("other", holes=(1,))
    with pytest.raises(RecipeMismatchError, match=r"dataset.digest: cache has .* push to another URL"):
        push(listing, url)
    with pytest.raises(CacheError, match=r"another container .*push to another URL"):
        push(training_cache("tars", container="webdataset"), url)
    with pytest.raises(CacheError, match=r"seed-0000/shard-00000\.json: the shard there has other bytes"):
        push(other, url)
    assert paths(url) == before, "no claim stays"
    with pytest.raises(RecipeMismatchError, match="pull to another folder"):
        pull(url, listing)
    with pytest.raises(CacheError, match="the shard in the folder has other bytes"):
        pull(url, other)
    foreign = url + "-foreign"
    store_of(foreign).write("photo.jpg", b"x", "sha256:0")
    with pytest.raises(CacheError, match=r"contains other objects \(photo.jpg\) and no cache"):
        push(cache, foreign)


def test_a_damaged_object_is_not_sent(training_cache, url: str) -> None:
    cache = training_cache(seeds=(0,))
    path = cache / "seed-0000/pixels/c/1/0/0"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"pixels/c/1/0/0: .* changed or damaged, and is not sent"):
        push(cache, url)
    assert "manifest.json" not in paths(url)
    assert "seed-0000/pixels/c/1/0/0" not in paths(url)


def test_only_objects_with_the_right_digest_are_believed(training_cache, url: str, files) -> None:
    """Size alone, or an ETag, do not make an object believed; nor does a digest beside bytes of another size."""
    cache, store = training_cache(seeds=(0,), container="webdataset"), store_of(url)
    names = sorted(name for name in files(cache) if name.endswith(".tar"))
    right = [(cache / name).read_bytes() for name in names]
    store.write(names[0], bytes(len(right[0])), "sha256:" + "0" * 64)
    store.create(names[1], right[1])  # the right bytes, but nobody says so
    store.write(names[2], right[2], "sha256:" + files(cache)[names[2]])
    assert push(cache, url).objects_sent == 2
    assert verify_url(url, full=True, patience=PATIENCE).exit_code == 0


def test_verify_names_what_is_wrong_at_the_url(training_cache, url: str) -> None:
    cache, store = training_cache(seeds=(0,)), store_of(url)
    push(cache, url)
    store.write("seed-0000/label/c/1", b"short", "sha256:0")
    store.delete("seed-0000/importance/c/0/0")
    content = bytearray((cache / "seed-0000/pixels/c/2/0/0").read_bytes())
    content[0] ^= 1
    store.write("seed-0000/pixels/c/2/0/0", bytes(content), "sha256:0")
    store.write("seed-0000/view/zarr.json", b"{}", "sha256:0")
    store.write(".push/seed-0009.json", b"{}", "sha256:0")
    quick, full = (verify_url(url, full=full, patience=PATIENCE) for full in (False, True))
    assert {finding.path for finding in quick.findings} == {
        "seed-0000/label/c/1",
        "seed-0000/importance/c/0/0",
        "seed-0000/view/zarr.json",
    }
    assert {finding.path for finding in full.findings} - {finding.path for finding in quick.findings} == {
        "seed-0000/pixels/c/2/0/0"
    }
    assert {finding.advice for finding in full.findings} == {"push the cache again from a sound copy"}
    assert [note.path for note in full.notes] == [".push/seed-0009.json"]
    assert quick.exit_code == 1
    with pytest.raises(
        IntegrityError, match=r"seed-0000/.*: (the digest of its bytes|5 bytes|there is no such object)"
    ):
        pull(url, cache.parent / "out")


def test_two_pushes_of_the_same_content_help_each_other(training_cache, url: str) -> None:
    cache = training_cache()
    with ThreadPoolExecutor(2) as threads:
        assert {one.result().seeds for one in [threads.submit(push, cache, url) for _ in "12"]} == {(0, 1)}
    assert verify_url(url, full=True, patience=PATIENCE).exit_code == 0
    assert not any(path.startswith(".push") for path in paths(url))


REFUSED = "the shard there has other bytes of the same recipe (another extraction made it)"
CLAIMED = "a push of other content is under way here"


def test_of_two_pushes_of_other_content_one_wins(training_cache, url: str, tmp_path: Path, files) -> None:
    caches = [training_cache("a"), training_cache("b", holes=(3,))]
    start = threading.Barrier(2)

    def attempt(cache: Path) -> str:
        start.wait()
        try:
            push(cache, url)
        except (BusyError, CacheError) as error:
            return error.message.partition(": ")[2].partition(", ")[0]
        return "done"

    with ThreadPoolExecutor(2) as threads:
        ends = list(threads.map(attempt, caches))
    assert "done" in ends
    assert set(ends) - {"done"} <= {REFUSED, CLAIMED}
    pull(url, tmp_path / "out")
    assert files(tmp_path / "out") == files(caches[ends.index("done")])


def test_a_claim_of_other_content_keeps_a_push_out(training_cache, url: str, proxy: Proxy) -> None:
    cache = training_cache("a")
    proxy.faults = [Fault(kind="status", method="PUT", path="seed-0000/", status=403)]
    with pytest.raises(LookonceError, match="access is denied"):
        push(cache, url)
    proxy.faults = []
    with pytest.raises(BusyError, match=r"/\.push/manifest|seed.*: a push of other content is under way here, or was"):
        push(training_cache("b", holes=(3,)), url)
    push(cache, url)


@pytest.mark.parametrize("kind", ["unconditional", "unsupported"])
def test_a_store_without_conditional_writes_is_found_out(
    training_cache, url: str, proxy: Proxy, capsys, kind: str
) -> None:
    proxy.faults = [Fault(kind=kind, method="PUT")]
    cache = training_cache(seeds=(0,))
    push(cache, url)
    assert "ignores conditional writes" in capsys.readouterr().err
    assert verify_url(url, full=True, patience=PATIENCE).exit_code == 0
    with pytest.raises(CacheError, match="other bytes"):
        push(training_cache("other", seeds=(0,), holes=(1,)), url)


def test_room_is_checked_before_anything_is_fetched(
    training_cache, url: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    push(training_cache(seeds=(0,)), url)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(pull_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"the pull needs .* kB, and the disk has 1 kB free: make room"):
        pull(url, tmp_path / "out")
    assert "to fetch, 1 kB free" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("seed-0000/*/c"))


def test_a_store_says_so_in_a_forked_process(url: str) -> None:
    store = store_of(url)
    assert "opened in another process" in machine_error_of_child(lambda: store.sizes(""))


def test_results_are_documents(training_cache, url: str, tmp_path: Path) -> None:
    for summary in (push(training_cache(), url), pull(url, tmp_path / "out")):
        document = json.loads(json.dumps(summary.document()))
        moved = "sent" if isinstance(summary, PushSummary) else "fetched"
        counts = {"objects", f"objects_{moved}", "bytes", f"bytes_{moved}"}
        assert document.keys() == {"cache", "url", "fingerprint", "seeds"} | counts
        assert document["seeds"] == [0, 1]
        assert f"seeds 0, 1 are complete: {summary.objects} objects" in summary.text()
