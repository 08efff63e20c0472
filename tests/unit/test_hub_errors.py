"""What the hub refuses, and why: each kind is told apart, for timm's weights and for open_clip's."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm
from fake_hub import fake_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import save

from lookonce.extract.teachers import hub
from lookonce.extract.teachers.hub import reason_and_advice

REPOSITORY, FILES = "timm/deit_tiny_patch16_224.fb_in1k", ("model.safetensors",)
CLIP = "timm/vit_base_patch32_clip_224.openai"
LOAD = """
import json, sys, urllib.request
from lookonce.extract.teachers import load_teacher, resolve_teacher
from lookonce.shared.errors import TeacherError
for mode, name in json.loads(sys.argv[1]):
    urllib.request.urlopen(f"{sys.argv[2]}/mode/{mode}").read()
    try:
        load_teacher(resolve_teacher(name), weights=None, view_size=64, patch_size=16, blocks="top1", quiet=True)
        print(json.dumps("loaded"))
    except TeacherError as error:
        print(json.dumps(str(error)))
"""


def http_error(kind: type[HfHubHTTPError], status: int, **headers: str) -> HfHubHTTPError:
    response: Any = types.SimpleNamespace(status_code=status, headers=headers, request=None)
    return kind("the server said so", response=response)


class ConnectError(Exception):
    """As the HTTP clients name theirs."""


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


NOT_FOUND = LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub")
FULL = OSError(errno.ENOSPC, "No space left on device")
PAGE = f"{constants.ENDPOINT}/{REPOSITORY}"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (http_error(GatedRepoError, 401), f"access to {PAGE} is restricted (401): accept its terms on that page"),
        (http_error(GatedRepoError, 403), "is restricted (403): accept its terms"),
        (http_error(RepositoryNotFoundError, 401), f"there is no {PAGE} (401), or it is private"),
        (http_error(RepositoryNotFoundError, 404), "(404), or it is private: check HF_ENDPOINT"),
        (http_error(RemoteEntryNotFoundError, 404), "contains no weights under the names that are known (404)"),
        (caused(NOT_FOUND, http_error(HfHubHTTPError, 429)), "answers 429, too many requests: wait some minutes"),
        (http_error(HfHubHTTPError, 429, **{"retry-after": "300"}), "too many requests: wait 300 s and run again"),
        (
            caused(FileNotFoundError("x"), http_error(HfHubHTTPError, 503)),
            "answers 503, an error of the server",
        ),
        (http_error(HfHubHTTPError, 418), "the hub answers 418"),
        (caused(RuntimeError("x"), FULL), f"the disk with the hub's cache {constants.HF_HUB_CACHE} is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), "/cache: Permission denied: correct the"),
        (caused(FileNotFoundError("x"), ConnectError("[Errno 111] Connection refused")), "cannot be reached"),
        (TimeoutError("The read operation timed out"), "cannot be reached (The read operation timed out)"),
        (OSError("Consistency check failed: file should be of size 3"), "the download was cut off: run again"),
        (LookupError("what"), "LookupError: what: download them on a machine with a network"),
    ],
)
def test_each_kind_has_its_sentence(error: BaseException, says: str) -> None:
    assert says in reason_and_advice(error, REPOSITORY, FILES)


def test_a_damaged_file_of_the_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, link = tmp_path / "blob", tmp_path / "model.safetensors"
    blob.write_bytes(b"x")
    link.symlink_to(blob)
    monkeypatch.setattr(hub, "cached_file", lambda repository, files: link)
    said = reason_and_advice(SafetensorError("Error while deserializing header"), REPOSITORY, FILES)
    assert said.endswith(f"delete {blob} and run again")


def ask(cases: list[tuple[str, str]], files: dict[str, bytes], home: Path) -> tuple[list[Any], str]:
    """What loading teachers says in modes of the hub, all in one process: the hub's address is read at its start."""
    with fake_hub(files) as address:
        environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": address, "OMP_NUM_THREADS": "1"}
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
            environment.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-c", LOAD, json.dumps(cases), address],
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], address


def test_a_hub_that_refuses_and_one_that_spoils(tmp_path: Path) -> None:
    weights = save(dict(timm.create_model("deit_tiny_patch16_224").state_dict()))
    files = {f"{REPOSITORY}/model.safetensors": weights, f"{CLIP}/open_clip_model.safetensors": weights}
    modes = ("gated", "private", "missing", "other-files", "zeros", "zeros")
    names = ["deit-tiny"] * 5 + ["clip-b32"]
    said, address = ask([*zip(modes, names, strict=True), ("gated", "clip-b32")], files, tmp_path)
    page = f"{address}/{REPOSITORY}"
    assert f"access to {page} is restricted (401): accept its terms" in said[0]
    assert f"there is no {page} (401), or it is private" in said[1]
    assert f"there is no {page} (404)" in said[2]
    assert f"{page} contains no weights under the names that are known" in said[3]
    for sentence, repository in ((said[4], REPOSITORY), (said[5], CLIP)):
        blobs = tmp_path / "hub" / f"models--{repository.replace('/', '--')}" / "blobs"
        assert "the file in the hub's cache is damaged" in sentence
        assert f"delete {next(blobs.iterdir())} and run again" in sentence
    assert all(sentence.endswith("or give the file with --teacher-weights FILE") for sentence in said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "says"), [("busy", "answers 429, too many"), ("down", "answers 503"), ("cut", "was cut off: run again")]
)
def test_a_hub_in_trouble(mode: str, says: str, tmp_path: Path) -> None:
    """Slow: the hub's client tries again for a while."""
    files = {f"{REPOSITORY}/model.safetensors": bytes(3000), f"{CLIP}/open_clip_model.safetensors": bytes(3000)}
    said, _ = ask([(mode, "deit-tiny"), (mode, "clip-b32")], files, tmp_path)
    assert all(says in sentence for sentence in said)
