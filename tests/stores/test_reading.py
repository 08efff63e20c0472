"""Caches that are read from web servers and from the hub, and what importing and the commands do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from s3_server import Fault, Proxy
from web_servers import COMMIT, dataset_hub, web_server

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.commands import feature_cache
from lookonce.shared.errors import CacheMismatchError, IntegrityError, SchemaError, StoreError
from lookonce.stores.pull import PullConfig, pull_cache
from lookonce.stores.verify_url import verify_url

PATIENCE = 6.0
REPOSITORY = "someone/flowers"


def pull(url: str, out: Path, **changes: Any) -> Any:
    return pull_cache(PullConfig(url=url, out=out, patience=PATIENCE, **changes))


@pytest.fixture
def cache(training_cache) -> Path:
    """Seeds 0 and 2, in a folder below that which is served."""
    return training_cache("served/int8", seeds=(0, 2))


def test_from_a_web_server(cache: Path, tmp_path: Path, files, capsys) -> None:
    with web_server(cache.parent) as address:
        url = f"{address}/int8"
        assert pull(url, tmp_path / "out").seeds == (0,)
        assert "found seeds 0 by asking for 0, 1, 2 and so on" in capsys.readouterr().err
        assert pull(url, tmp_path / "out", seeds="0,2").seeds == (0, 2)
        assert files(tmp_path / "out") == files(cache)
        with pytest.raises(CacheMismatchError, match="there is no seed 1"):
            pull(url, tmp_path / "out", seeds="1")
        (cache / "seed-0000/label/c/0").unlink()
        (cache / "seed-0000/key/c/0").write_bytes(b"short")
        report = verify_url(url, full=True, patience=PATIENCE)
        assert {finding.path for finding in report.findings} == {"seed-0000/label/c/0", "seed-0000/key/c/0"}
        (cache / "manifest.json").write_text("<!DOCTYPE html><html>Log in</html>")
        with pytest.raises(SchemaError, match=r"expected a manifest, found a web page .*check the URL"):
            pull(url, tmp_path / "other")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The hub, with the folder ``served`` as a dataset; the paths of its requests."""
    requests: list[str] = []
    (tmp_path / "served").mkdir(exist_ok=True)
    with dataset_hub(tmp_path / "served", REPOSITORY, requests, token="hf_right") as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        yield requests


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_from_the_hub(hub: list[str], cache: Path, tmp_path: Path, files, revision: str) -> None:
    url = f"hf://datasets/{REPOSITORY}{revision}/int8"
    assert pull(url, tmp_path / "out").seeds == (0, 2)
    assert files(tmp_path / "out") == files(cache)
    content = [path for path in hub if "/resolve/" in path]
    assert content
    assert all(f"/resolve/{COMMIT}/int8/" in path for path in content), "all of one commit"
    report = verify_url(url, full=True, patience=PATIENCE)
    assert (report.whole, report.cache) == (True, url)
    (cache / "seed-0000/key/c/0").write_bytes((cache / "seed-0000/key/c/0").read_bytes()[::-1])
    with pytest.raises(IntegrityError, match=r"hf://datasets/.*/seed-0000/key/c/0: the digest"):
        pull(url, tmp_path / "again")


def test_what_the_hub_refuses(hub: list[str], cache: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(StoreError, match=r"hf://datasets/someone/none/int8: the hub has no such dataset"):
        pull("hf://datasets/someone/none/int8", tmp_path / "out")
    with pytest.raises(StoreError, match="the hub has no such revision"):
        pull(f"hf://datasets/{REPOSITORY}@v9/int8", tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StoreError, match=r"the hub has no such dataset .*, or it is private: .*'hf auth login'"):
        pull(f"hf://datasets/{REPOSITORY}/int8", tmp_path / "out")


@pytest.mark.parametrize("command", ["push", "pull"])
def test_the_libraries_of_stores_are_imported_with_the_first_url(command: str) -> None:
    code = (
        f"import sys; from lookonce.stores import {command}; import lookonce.commands.feature_cache\n"
        "print({'obstore', 'boto3', 'huggingface_hub', 'torch'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        feature_cache.main([*map(str, arguments)])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_the_commands(training_cache, url: str, proxy: Proxy, tmp_path: Path, capsys) -> None:
    cache, out = training_cache(container="webdataset"), tmp_path / "out"
    code, said, _ = run(capsys, "push", cache, url)
    assert code == 0
    assert said.startswith(f"{url}: seeds 0, 1 are complete: 6 objects")
    code, said, _ = run(capsys, "show", url)
    assert (code, said.splitlines()[0]) == (0, f"cache        {url} (complete)")
    code, said, _ = run(capsys, "verify", url, "--full", "--json")
    assert (code, json.loads(said)["whole"], json.loads(said)["cache"]) == (0, True, url)
    code, said, noted = run(capsys, "pull", url, out, "--seeds", "1", "--json")
    assert (code, json.loads(said)["objects_fetched"]) == (0, 3)
    assert "3 objects, " in noted
    assert CacheReader(out).seeds == (1,)
    proxy.faults = [Fault(kind="status", path="shard-00001.tar", status=403)]
    code, said, _ = run(capsys, "verify", url, "--full")
    assert code == 3
    code, said, error = run(capsys, "pull", url, out)
    assert (code, said) == (1, "")
    assert error.splitlines()[-1].startswith(f"error: {url}/seed-0000/shard-00001.tar: access is denied (403)")
    assert verify_cache(out, seeds=(1,), full=True).whole
    assert run(capsys, "push", out, url)[0] == 0, "seeds that are there are left out"
