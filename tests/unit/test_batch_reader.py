"""One step's input against independent readings: zarr-python for pixels and targets, full features for the norms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.shared.masking import mask_noise, visible_patches
from lookonce.shared.masking import visible_count as count_of
from lookonce.train.data.batch_reader import BatchReader, StoredPixels
from lookonce.train.data.caches.joined_caches import JoinedCaches
from lookonce.train.data.device_copies import DeviceCopies
from lookonce.train.data.host_memory import HostMemory
from lookonce.train.data.sample_order import SampleOrder, SamplesOfStep, batch_parts
from lookonce.train.data.target_decoder import TargetDecoder
from lookonce.train.model.alignment import DynamicAlignment
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.model.alignment_step import AlignmentStep, TeacherAlignment
from lookonce.train.model.student import Student

MASK_RATIO = 0.7


def open_targets(
    root: Path, mask: str = "attentive", *, target_norm: Any = "whiten", **changes: Any
) -> tuple[CacheReader, BatchReader]:
    reader = CacheReader(root)
    return reader, BatchReader(
        JoinedCaches([reader]),
        StoredPixels(reader),
        mask=mask,
        mask_ratio=MASK_RATIO,
        run_seed=5,
        target_norm=target_norm,
        **changes,
    )


def order_of(reader: CacheReader, batch_size: int = 6) -> SampleOrder:
    return SampleOrder(reader.rows(0), reader.seeds, run_seed=5, batch_size=batch_size, epochs=4)


def from_zarr(root: Path, name: str, samples: SamplesOfStep) -> NDArray[Any]:
    """Whole samples of an array, read by zarr-python."""
    arrays = {seed: zarr.open_array(root / f"seed-{seed:04d}" / name, mode="r") for seed in set(samples.seeds.tolist())}
    return np.stack([arrays[int(s)][int(r)] for s, r in zip(samples.seeds, samples.rows, strict=True)])  # type: ignore[list-item]


@pytest.mark.parametrize("mask", ["attentive", "random", "hide-attentive"])
def test_masks_are_drawn_from_run_seed_epoch_key_and_augmentation_seed(
    training_cache: Callable[..., Path], mask: str
) -> None:
    root = training_cache()
    reader, targets = open_targets(root, mask)
    order = order_of(reader)
    for step in range(order.total_steps):
        samples = order.step(step)
        ids = targets.visible(samples).ids
        for position, (epoch, row, seed) in enumerate(zip(samples.epochs, samples.rows, samples.seeds, strict=True)):
            key = f"c{row % 2}/näme-{row:03d}.jpg"
            noise = mask_noise(5, int(epoch), [key], [int(seed)], 16)
            importance = reader.read("importance", [int(seed)], [int(row)])
            assert ids[position].tolist() == visible_patches(mask, importance, noise, MASK_RATIO)[0].tolist()


def test_masks_change_with_the_epoch_and_not_with_the_batch(training_cache: Callable[..., Path]) -> None:
    reader, targets = open_targets(training_cache(samples=30))
    one = SamplesOfStep(step=0, epochs=np.array([0, 2]), rows=np.array([3, 3]), seeds=np.array([0, 0]))
    first, later = targets.visible(one).ids
    assert first.tolist() != later.tolist()
    alone = one.part(slice(1, None))
    assert targets.visible(alone).ids[0].tolist() == later.tolist()
    assert count_of(reader.manifest.recipe.patches, MASK_RATIO) == 4 == len(first)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_what_is_read_equals_a_plain_gather_by_zarr_python(training_cache: Callable[..., Path], precision: str) -> None:
    root = training_cache(precision=precision)
    reader, targets = open_targets(root)
    order = order_of(reader)
    decoder = TargetDecoder(reader.manifest.encoding, [1, 0], 6)
    for step in range(order.total_steps):
        samples = order.step(step)
        batch = targets.batch(samples)
        ids = batch.visible_ids.numpy()
        pixels, stored = from_zarr(root, "pixels", samples), from_zarr(root, "targets", samples)
        assert np.array_equal(batch.visible_pixels.numpy(), np.take_along_axis(pixels, ids[..., None], axis=1))
        for position, visible in enumerate(ids):
            tokens = [0, *(visible + 1)]
            assert np.array_equal(batch.targets[0].elements[position].numpy(), stored[position][tokens])
        decoded = decoder(batch.targets[0].elements).numpy()
        reference = reader.decode(batch.targets[0].elements.numpy())[:, :, [1, 0]]
        np.testing.assert_allclose(decoded, reference, rtol=1e-6, atol=1e-6)  # a fused multiply-add rounds once
        assert batch.targets[0].token_mean is None


@pytest.mark.parametrize("norm", ["whiten", "none", "l2", "bn"])
def test_target_norms_equal_those_of_all_features(training_cache: Callable[..., Path], norm: str) -> None:
    root = training_cache(width=24, layers=3, samples=8, precision="fp16", make_arrays=_whitened)
    reader, targets = open_targets(root, target_norm=norm)
    samples = order_of(reader).step(1)
    batch = targets.batch(samples)
    positions = reader.layer_positions([3, 4])
    found = _teacher(reader, norm, positions).targets(batch.targets[0]).numpy()

    full = reader.decode(from_zarr(root, "targets", samples))[:, :, positions].astype(np.float64)
    mean = from_zarr(root, "target_mean", samples)[:, :, positions, None].astype(np.float64)
    std = from_zarr(root, "target_std", samples)[:, :, positions, None].astype(np.float64)
    raw = full * std + mean  # every token, visible or not
    expected = {
        "whiten": lambda: full,
        "none": lambda: raw,
        "l2": lambda: raw / np.linalg.norm(raw, axis=-1, keepdims=True),
        "bn": lambda: (
            (raw - raw.mean((0, 1, 3), keepdims=True)) / np.sqrt(raw.var((0, 1, 3), ddof=1, keepdims=True) + 1e-6)
        ),
    }[norm]()
    tokens = np.pad(batch.visible_ids.numpy() + 1, ((0, 0), (1, 0)))
    np.testing.assert_allclose(
        found, np.take_along_axis(expected, tokens[..., None, None], axis=1), rtol=2e-4, atol=2e-4
    )


def _whitened(manifest: Any, seed: int) -> dict[str, Any]:
    """Targets that are LayerNormed as a real cache's are, so that their moments are what mean and std say."""
    generator = np.random.default_rng(100 + seed)
    shape = (manifest.samples, manifest.recipe.patches + 1, len(manifest.recipe.teacher.blocks), 24)
    raw = (
        generator.normal(size=shape) * generator.uniform(0.5, 4, shape[:3])[..., None]
        + generator.normal(size=3)[:, None]
    )
    mean, std = raw.mean(-1), np.sqrt(raw.var(-1) + 1e-5)
    whitened = ((raw - mean[..., None]) / std[..., None]).astype(np.float32)
    from lookonce.storage_schemas.precision import get_precision

    stored = get_precision(manifest.encoding.precision).encode(whitened, manifest.encoding.parameters)
    return {"targets": stored, "target_mean": mean.astype(np.float32), "target_std": std.astype(np.float32)}


def _teacher(reader: CacheReader, norm: Any, positions: list[int]) -> TeacherAlignment:
    alignment = DynamicAlignment(
        AlignmentConfig(target_norm=norm, layer_weights="top2"),
        student_blocks=6,
        student_dim=64,
        teacher_levels=4,
        teacher_dim=24,
    )
    return TeacherAlignment(alignment, TargetDecoder(reader.manifest.encoding, positions, 24), layers=positions)


def test_the_student_gets_exactly_the_visible_pixels(training_cache: Callable[..., Path]) -> None:
    reader, targets = open_targets(training_cache())
    taken: list[tuple[torch.Tensor, ...]] = []

    class Recorder(Student):
        def forward(self, visible_pixels: Any, visible_ids: Any, *others: Any) -> tuple[torch.Tensor, ...]:
            taken.append((visible_pixels, visible_ids))
            return super().forward(visible_pixels, visible_ids, *others)

    alignment = DynamicAlignment(
        AlignmentConfig(layer_weights="top2"), student_blocks=6, student_dim=64, teacher_levels=4, teacher_dim=6
    )
    teacher = TeacherAlignment(alignment, TargetDecoder(reader.manifest.encoding, [0, 1], 6), layers=[0, 1])
    step = AlignmentStep(Recorder("test_vit", img_size=64), [teacher])
    samples = order_of(reader).step(2)
    output = step(targets.batch(samples))
    whole = from_zarr(reader.root, "pixels", samples)
    (pixels, ids), *others = taken
    assert not others
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.numpy(), np.take_along_axis(whole, ids.numpy()[..., None], axis=1))
    assert pixels.shape[1] == 4  # of 16 patches
    assert output.level_losses.shape == (2,)


@pytest.mark.parametrize("precision", ["int8", "klt1"])
def test_what_is_read_per_sample_is_announced(
    training_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """All but importance, a few hundred bytes."""
    reader, targets = open_targets(training_cache(precision=precision), target_norm="l2")
    announced, read, read_as_ever = set[str](), set[str](), reader.read

    def spied_read(name: str, *arguments: Any, **changes: Any) -> Any:
        read.add(name)
        return read_as_ever(name, *arguments, **changes)

    monkeypatch.setattr(reader, "prefetch", lambda names, *_: announced.update(names))
    monkeypatch.setattr(reader, "read", spied_read)
    samples = order_of(reader).step(0)
    targets.announce(samples)
    targets.batch(samples)
    assert announced == read - {"importance"}
    assert {"pixels", "targets", "target_std"} < announced


def test_batches_are_the_same_from_many_threads(training_cache: Callable[..., Path]) -> None:
    from lookonce.train.data.prefetch import prefetched_batches

    reader, targets = open_targets(training_cache(), target_norm="bn", drop_path=0.5, student_depth=6)
    order = order_of(reader, batch_size=3)
    ahead = list(prefetched_batches(targets, order, first=2, last=order.total_steps, threads=5))
    assert len(ahead) == order.total_steps - 2
    for step, batch in enumerate(ahead, start=2):
        assert_same_batch(batch, targets.batch(order.step(step)))


def assert_same_batch(one: Any, other: Any) -> None:
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same_batch(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same_batch(mine, theirs)
    elif one is None:
        assert other is None
    else:
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_of_a_step_are_slices_of_its_whole_batch(training_cache: Callable[..., Path], parts: int) -> None:
    reader, targets = open_targets(training_cache(), target_norm="bn", drop_path=0.5, student_depth=6)
    samples = order_of(reader, batch_size=5).step(3)
    whole = targets.batch(samples)
    assert whole.branch_scales is not None
    assert set(whole.branch_scales[-1].flatten().tolist()) == {0.0, 2.0}
    shares = 0.0
    for part in batch_parts(5, parts):
        batch = targets.batch(samples, part)
        shares += batch.share
        assert batch.share == (part.stop - part.start) / 5
        if batch.share == 0:  # more parts than samples: something to compute, which does not count
            assert len(batch.visible_ids) == 1
            continue
        assert torch.equal(batch.visible_pixels, whole.visible_pixels[part])
        assert torch.equal(batch.targets[0].elements, whole.targets[0].elements[part])
        assert batch.branch_scales is not None
        assert torch.equal(batch.branch_scales, whole.branch_scales[..., part])
        found, expected = batch.targets[0].statistics, whole.targets[0].statistics
        assert found is not None
        assert expected is not None
        assert torch.equal(found.mean, expected.mean)  # of the whole batch, whatever part is read
        assert torch.equal(found.variance, expected.variance)
    assert shares == pytest.approx(1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_come_to_a_gpu_unchanged_from_page_locked_memory(training_cache: Callable[..., Path]) -> None:
    root, device = training_cache(), torch.device("cuda")
    plain = open_targets(root, target_norm="bn", drop_path=0.5, student_depth=6)[1]
    reader, locked = open_targets(
        root, target_norm="bn", drop_path=0.5, student_depth=6, memory=HostMemory(page_locked=True)
    )
    order, copies, taken = order_of(reader), DeviceCopies(device), []
    for step in range(order.total_steps):
        batch = locked.batch(order.step(step))
        assert batch.targets[0].elements.is_pinned()
        taken.append(copies.take(batch))
        del batch  # its memory may be handed out again from here on
    for step, batch in enumerate(taken):
        assert batch.visible_ids.device.type == "cuda"
        assert_same_batch(batch.to(torch.device("cpu")), plain.batch(order.step(step)))
