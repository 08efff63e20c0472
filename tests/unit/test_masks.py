"""What a run may mask, given what the cache stores; and that what it reads is right in each case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import CacheMismatchError, IntegrityError
from lookonce.shared.masking import draw_patches, mask_noise, visible_count
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.tokens import TokenSubset, TopTokens, VisibleTokens
from lookonce.train.data.batch_reader import BatchReader, StoredPixels
from lookonce.train.data.caches.joined_caches import JoinedCaches
from lookonce.train.data.mask_choice import choose_masks
from lookonce.train.data.sample_order import SampleOrder

VISIBLE, TOP = VisibleTokens(mask="random", mask_ratio=0.75), TopTokens(share=0.5)


def test_what_is_left_open_is_the_released_recipe_or_the_caches(make_manifest: Callable[..., Manifest]) -> None:
    chosen = choose_masks(make_manifest().recipe, None, None, "cache")
    assert (chosen.kind, chosen.ratio, chosen.note) == ("attentive", 0.7, None)
    chosen = choose_masks(make_manifest(tokens=VISIBLE).recipe, None, None, "cache")
    assert (chosen.kind, chosen.ratio) == ("random", 0.75)
    assert "4 of 16 patches" in str(chosen.note)
    assert "the same in every epoch" in str(chosen.note)
    chosen = choose_masks(make_manifest(tokens=TOP).recipe, "hide-attentive", 0.75, "cache")
    assert (chosen.kind, chosen.ratio) == ("hide-attentive", 0.75)
    assert "most important 8 of 16" in str(chosen.note)


@pytest.mark.parametrize(
    ("tokens", "kind", "ratio", "advice"),
    [
        (VISIBLE, "attentive", None, "Leave out --mask"),
        (VISIBLE, "random", 0.7, "Leave out --mask"),
        (TOP, None, 0.3, "--mask-ratio 0.5 or more"),
    ],
)
def test_masks_that_the_cache_cannot_give_are_refused(
    make_manifest: Callable[..., Manifest], tokens: TokenSubset, kind: str | None, ratio: float | None, advice: str
) -> None:
    with pytest.raises(CacheMismatchError, match=advice) as caught:
        choose_masks(make_manifest(tokens=tokens).recipe, kind, ratio, "some-cache")
    assert "some-cache" in str(caught.value)


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
@pytest.mark.parametrize("tokens", [VISIBLE, TOP])
def test_what_is_read_of_a_subset_lies_where_its_patch_ids_say(
    training_cache: Callable[..., Path], tokens: TokenSubset, container: str
) -> None:
    root = training_cache(tokens=tokens, container=container)
    twin = training_cache("twin", tokens=tokens)  # the same content, for zarr-python
    reader = CacheReader(root)
    targets = BatchReader(
        JoinedCaches([reader]),
        StoredPixels(reader),
        mask="attentive" if tokens is TOP else "random",
        mask_ratio=0.75,
        run_seed=5,
        target_norm="none",
    )
    order = SampleOrder(reader.rows(0), reader.seeds, run_seed=5, batch_size=6, epochs=4)
    keys = reader.column("key", 0)
    for step in range(order.total_steps):
        samples = order.step(step)
        batch = targets.batch(samples)
        for position, (epoch, row, seed) in enumerate(zip(samples.epochs, samples.rows, samples.seeds, strict=True)):
            group = zarr.open_group(twin / f"seed-{seed:04d}", mode="r")
            stored = np.asarray(group["patch_ids"][int(row)]).astype(int)  # type: ignore[index, call-overload]
            ids = batch.visible_ids[position].numpy()
            assert len(ids) == visible_count(16, 0.75) == 4
            if tokens is VISIBLE:
                assert ids.tolist() == stored.tolist()
            else:
                importance = np.asarray(group["importance"][int(row)])[None, stored]  # type: ignore[index, call-overload]
                noise = mask_noise(5, int(epoch), [str(keys[row])], [int(seed)], 16)[:, stored]
                assert ids.tolist() == stored[draw_patches("attentive", importance, noise, 4)[0]].tolist()
            places = [stored.tolist().index(patch) for patch in ids.tolist()]
            pixels = np.asarray(group["pixels"][int(row)])[places]  # type: ignore[index, call-overload]
            values = np.asarray(group["targets"][int(row)])[[0, *(place + 1 for place in places)]]  # type: ignore[index, call-overload]
            assert np.array_equal(batch.visible_pixels[position].numpy(), pixels)
            assert np.array_equal(batch.targets[0].elements[position].numpy(), values)
            means = np.asarray(group["target_mean"][int(row)])[[0, *(place + 1 for place in places)]]  # type: ignore[index, call-overload]
            assert batch.targets[0].token_mean is not None
            assert np.array_equal(batch.targets[0].token_mean[position].numpy(), means)


@pytest.mark.parametrize("damaged", [[3, 1, 2, 5], [1, 1, 2, 3], [0, 1, 2, 16]])
def test_damaged_patch_ids_are_named_and_never_used(training_cache: Callable[..., Path], damaged: list[int]) -> None:
    def ids(manifest: Manifest, seed: int) -> dict[str, np.ndarray]:
        return {"patch_ids": np.array([damaged] * manifest.samples, dtype=np.uint16)}

    reader = CacheReader(training_cache(tokens=VISIBLE, make_arrays=ids))
    targets = BatchReader(JoinedCaches([reader]), StoredPixels(reader), mask="random", mask_ratio=0.75, run_seed=5)
    order = SampleOrder(reader.rows(0), reader.seeds, run_seed=5, batch_size=6, epochs=4)
    with pytest.raises(IntegrityError, match=r"patch_ids of row \d+, seed 0, are not ascending numbers below 16"):
        targets.batch(order.step(0))
