"""Errors, canonical JSON, digests, random streams and files by rename."""

from __future__ import annotations

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lookonce.shared import errors
from lookonce.shared.canonical import canonical_json, digest_bytes, digest_document, digest_file
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.files.atomic import TEMPORARY_MARK, atomic_file, write_json
from lookonce.shared.randomness import random_uniform_rows, random_words

ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_cross_process_borders(kind: type[errors.LookonceError]) -> None:
    again = pickle.loads(pickle.dumps(kind("shard 3: what to do")))
    assert type(again) is kind
    assert str(again) == "shard 3: what to do"


def test_canonical_json_is_independent_of_order_and_refuses_nan() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()
    assert digest_document({"a": 1, "b": 2}) == digest_document({"b": 2, "a": 1})
    with pytest.raises(ValueError):
        canonical_json({"a": float("nan")})


def test_digests_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 1000)
    expected = "sha256:" + hashlib.sha256(b"abc" * 1000).hexdigest()
    assert digest_file(tmp_path / "f", chunk_bytes=7) == digest_bytes(b"abc" * 1000) == expected


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with atomic_file(target) as handle:
        handle.write(b"old")
    with pytest.raises(TypeError), atomic_file(target) as handle:
        handle.write([b"new", "not bytes"])
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file") as handle:
        handle.write(b"x")
        assert not (tmp_path / "file").exists()
        assert [path for path in tmp_path.iterdir() if TEMPORARY_MARK in path.name]
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_file_in_the_way_of_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError, match="writing failed"):
        write_json(tmp_path / "file" / "manifest.json", {})


@pytest.mark.parametrize(
    "text", ["", "a", "3-1", "1,,2", "-1", "1-2-3", "1.5", "9999999999", "0-999999999", "0-60000,70000-120000"]
)
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(errors.UsageError, match="--seeds"):
        parse_seeds(text)


def test_a_range_that_runs_backwards_is_turned_round() -> None:
    with pytest.raises(errors.UsageError, match="the range 3-1 runs backwards; write 1-3"):
        parse_seeds("0,3-1")


def test_seeds_are_sorted_without_repeats() -> None:
    assert parse_seeds("5, 0-2,1") == (0, 1, 2, 5)


def test_streams_do_not_depend_on_what_was_drawn_before() -> None:
    """Each is that of a new generator, whatever counts were drawn from others, in any thread."""

    def drawn(number: int) -> list[int]:
        found = [random_words(count, "test", number).tolist() for count in (1, 41, 2, 7)]
        assert random_uniform_rows(5, "test", last=[(number,), (0,)]).shape == (2, 5)
        return [*found[0], *found[1], *random_words(6, "test", number).tolist()]

    with ThreadPoolExecutor(4) as threads:
        all_found = list(threads.map(drawn, range(50)))
    for number, found in enumerate(all_found):
        key = np.frombuffer(hashlib.sha256(f"stest\x1fi{number}".encode()).digest()[:16], "<u8")
        words = np.random.Philox(counter=0, key=key).random_raw(41).tolist()
        assert found == [words[0], *words, *words[:6]]
