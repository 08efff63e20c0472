"""Caches of the KLT precisions from extraction to training: resuming, appending, damage, conversion, exact resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lookonce.cache.convert.conversion import convert_cache
from lookonce.cache.convert.request import ConversionRequest
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.shared.errors import SchemaError, UsageError
from lookonce.storage_schemas.precision import get_precision
from lookonce.storage_schemas.tokens import TopTokens, VisibleTokens
from lookonce.testing import check_same, logged_numbers, student_run
from lookonce.train.batch_config import BatchConfig
from lookonce.train.cached_targets import CachedTargets
from lookonce.train.config import TrainingConfig
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.run import train_student


@pytest.fixture
def cache(whole_klt_cache, tmp_path) -> Path:
    return shutil.copytree(whole_klt_cache, tmp_path / "cache")


def encoding_object(root: Path) -> Path:
    return root / json.loads((root / "manifest.json").read_text())["encoding"]["object"]


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(
    "changes", [{}, {"format": "webdataset"}, {"tokens": "visible"}, {"tokens": "top:0.5"}], ids=str
)
def test_targets_are_near_those_of_fp16(extract_tiny, tmp_path, changes) -> None:
    for name, precision in (("klt", "klt2"), ("fp16", "fp16")):
        assert extract_tiny(tmp_path / name, precision=precision, layers="top2", seeds="0", **changes).code == 0
    klt, exact = CacheReader(tmp_path / "klt"), CacheReader(tmp_path / "fp16")
    rows = exact.rows(0)
    found, wanted = (reader.read_targets([0] * len(rows), rows) for reader in (klt, exact))
    assert found.shape == wanted.shape
    assert relative_error(found[:, 0], wanted[:, 0]) < 0.03, "class tokens have a byte per value"
    assert relative_error(found[:, 1:], wanted[:, 1:]) < 0.4
    report = verify_cache(tmp_path / "klt", full=True)
    assert report.whole
    assert not report.notes


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "no safetensors file"),
        (lambda path: path.write_bytes(b""), "no safetensors file"),
        (lambda path: _flip(path, -1), "expected"),
        (lambda path: _flip(path, 9), "safetensors|no array"),
    ],
    ids=["missing", "truncated", "empty", "last byte", "header"],
)
def test_a_damaged_object_of_the_encoding_is_named(cache, damage, problem) -> None:
    path = encoding_object(cache)
    damage(path)
    name = path.relative_to(cache).as_posix()
    with pytest.raises(SchemaError, match=problem) as caught:
        CacheReader(cache)
    assert name in str(caught.value)
    assert "restore it from a copy" in str(caught.value)
    assert "delete" not in str(caught.value)
    findings = verify_cache(cache, full=True).findings
    assert [finding.path for finding in findings] == [name]


def test_every_command_refuses_a_damaged_object_and_touches_nothing(
    forks, tiny_arguments, cache, tmp_path, files
) -> None:
    path = encoding_object(cache)
    _flip(path, -7)
    before, out = files(cache), tmp_path / "out"
    commands: list[tuple[str, list[Any]]] = [
        ("extract-features", tiny_arguments(cache, precision="klt1", layers="top2", seeds="0-2")),
        ("extract-features", tiny_arguments(out, precision="klt1", layers="top2", reuse=cache)),
        ("train-student", [f"--shards={cache}", f"--out={out}", "--student=test_vit"]),
        ("feature-cache", ["convert", cache, out, "--format", "webdataset"]),
        ("feature-cache", ["fidelity", cache]),
        ("feature-cache", ["show", cache]),
    ]
    for command, arguments in commands:
        ended = forks.start(arguments, command=command).wait()
        assert ended.code == 1, (command, ended.err)
        assert f"the object encoding/{path.name} of its encoding cannot be used: " in ended.sentence
        assert "restore it from a copy" in ended.sentence
        assert "delete" not in ended.sentence
    for more in ([], ["--full"]):
        ended = forks.start(["verify", cache, *more], command="feature-cache").wait()
        assert (ended.code, f"encoding/{path.name}" in ended.out) == (1, True)
    assert files(cache) == before
    assert not out.exists()


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_the_object_of_another_cache_is_refused(extract_tiny, cache, tmp_path) -> None:
    assert extract_tiny(tmp_path / "other", precision="klt2", layers="top2", seeds="0").code == 0
    encoding_object(cache).write_bytes(encoding_object(tmp_path / "other").read_bytes())
    with pytest.raises(SchemaError, match=r"encoding/[0-9a-f]{16}\.safetensors of its encoding cannot be used: array"):
        CacheReader(cache)


RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 2,
    "batch_size": 4,
    "base_lr": 0.05,
    "log_steps": 1,
    "workers": 1,
    "device": "cpu",
}


def train(cache: Path, run: Path, **changes: Any) -> Path:
    train_student(TrainingConfig(shards=(cache,), out=run, **{**RECIPE, **changes}), show_progress=False)
    return run


@pytest.mark.parametrize("norm", ["whiten", "none", "l2", "bn"])
def test_a_stopped_run_is_resumed_exactly(training_cache, tmp_path, norm) -> None:
    cache = training_cache(precision="klt1")
    whole = train(cache, tmp_path / "whole", target_norm=norm)
    train(cache, tmp_path / "run", target_norm=norm, max_steps=3)
    train(cache, tmp_path / "run", target_norm=norm)
    check_same(student_run(whole), student_run(tmp_path / "run"))


@pytest.mark.parametrize("layer_weights", ["top1", "top2", "mean"])
@pytest.mark.parametrize("tokens", [None, TopTokens(share=0.5)], ids=["all", "top"])
def test_batches_have_what_the_reader_decodes(training_cache, layer_weights, tokens) -> None:
    cache = training_cache(precision="klt1", tokens=tokens, layers=4)
    alignment = AlignmentConfig(layer_weights=layer_weights)
    targets = CachedTargets(
        BatchConfig(shards=(cache,), batch_size=5, epochs=1, mask="random", mask_ratio=0.7), alignment=alignment
    )
    reader = CacheReader(cache)
    layers = reader.layer_positions(targets.teacher_blocks[0])
    keys = [str(key) for key in reader.column("key", 0)]
    for step, batch in enumerate(targets):
        pairs = targets.keys(step)
        rows, seeds = [keys.index(key) for key, _ in pairs], [seed for _, seed in pairs]
        visible = batch["visible_ids"].numpy()
        if tokens is not None:
            stored = reader.read("patch_ids", seeds, rows).astype(np.int64)
            visible = (stored[:, None, :] == visible[:, :, None]).argmax(axis=2)
        wanted = reader.read_targets(seeds, rows, np.pad(visible + 1, ((0, 0), (1, 0))))[:, :, layers]
        torch.testing.assert_close(batch["targets"][0], torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)


def test_a_cache_of_visible_tokens_trains(training_cache, tmp_path) -> None:
    cache = training_cache(precision="klt1", tokens=VisibleTokens(mask="attentive", mask_ratio=0.7))
    run = train(cache, tmp_path / "run")
    assert np.isfinite([line["loss"] for line in logged_numbers(run)]).all()


def test_a_klt_cache_and_another_serve_one_run(training_cache, tmp_path) -> None:
    source = training_cache("fp16", precision="fp16")
    caches = tmp_path / "klt", tmp_path / "int8"
    convert(source, caches[0], precision="klt1")
    convert(source, caches[1], precision="int8")
    config = TrainingConfig(shards=caches, out=tmp_path / "run", **RECIPE)
    train_student(config, show_progress=False)
    assert (tmp_path / "run/student.safetensors").exists()


def convert(source: Path, out: Path, **changes: Any) -> CacheReader:
    convert_cache(source, out, ConversionRequest(**changes))
    assert verify_cache(out, full=True).whole
    return CacheReader(out)


def features(manifest: Any, seed: int) -> dict[str, Any]:
    """Views whose layers repeat each other, encoded as the cache stores them."""
    generator = np.random.default_rng(seed)
    layers, width = len(manifest.recipe.teacher.blocks), manifest.recipe.teacher.width
    shared = generator.normal(size=(manifest.samples, manifest.recipe.stored_patches + 1, 1, width))
    values = shared + 0.2 * generator.normal(size=(*shared.shape[:2], layers, width))
    codec = get_precision(manifest.encoding.precision)
    return dict(codec.encode_views(values.astype(np.float32), manifest.encoding.parameters))


@pytest.mark.parametrize("start", ["fp16", "klt2"])
@pytest.mark.parametrize("tokens", [VisibleTokens(mask="attentive", mask_ratio=0.7), TopTokens(share=0.5)], ids=str)
def test_fewer_tokens_and_bits_at_once(make_manifest, fill_cache, tmp_path, tokens, start) -> None:
    manifest = make_manifest(samples=40, shard_size=16, precision=start, width=16)
    fill_cache(tmp_path / "source", manifest, holes=(1, 6), make_arrays=features)
    theirs, ours = (
        CacheReader(tmp_path / "source"),
        convert(tmp_path / "source", tmp_path / "out", precision="klt1", tokens=tokens),
    )
    rows = ours.rows(0)
    ids = ours.read("patch_ids", [0] * len(rows), rows).astype(np.int64)
    wanted = theirs.read_targets([0] * len(rows), rows, np.pad(ids + 1, ((0, 0), (1, 0))))
    found = ours.read_targets([0] * len(rows), rows)
    assert found.shape == wanted.shape
    assert relative_error(found[:, 1:], wanted[:, 1:]) < 0.6
    assert relative_error(found[:, 0], wanted[:, 0]) < 0.03


def test_conversions(make_manifest, fill_cache, tmp_path) -> None:
    source = tmp_path / "source"
    fill_cache(source, make_manifest(samples=40, precision="fp16", width=16), make_arrays=features)
    exact = CacheReader(source)
    rows = exact.rows(0)
    wanted = exact.read_targets([0] * len(rows), rows)
    finer = convert(source, tmp_path / "klt2", precision="klt2")
    coarser = convert(tmp_path / "klt2", tmp_path / "klt1", precision="klt1")
    errors = [relative_error(one.read_targets([0] * len(rows), rows), wanted) for one in (finer, coarser)]
    assert errors[0] < errors[1] < 0.6
    again = convert(tmp_path / "klt1", tmp_path / "tars", container="webdataset", shard_size=5)
    for name in ("targets", "coarse_targets", "class_targets", "target_mean"):
        ours, theirs = (reader.read(name, [0] * len(rows), rows) for reader in (again, coarser))
        np.testing.assert_array_equal(ours, theirs)
    assert encoding_object(tmp_path / "tars").read_bytes() == encoding_object(tmp_path / "klt1").read_bytes()
    narrow = convert(source, tmp_path / "top", precision="klt2", tokens=TopTokens(share=0.5))
    assert narrow.read_targets([0], rows[:1]).shape[1] == 1 + narrow.manifest.recipe.stored_patches
    with pytest.raises(UsageError, match="klt1, whose tokens share a coarse part"):
        convert(tmp_path / "klt1", tmp_path / "no", tokens=TopTokens(share=0.5))
    with pytest.raises(UsageError, match=r"int2 \(2 bits\): .* has klt1 \(1 bits\)"):
        convert(tmp_path / "klt1", tmp_path / "no", precision="int2")
    assert not (tmp_path / "no").exists()
