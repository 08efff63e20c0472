"""Token subsets: what is stored, what is refused, and which patches they keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.write.stored_patches import stored_patch_ids
from lookonce.shared.errors import UsageError
from lookonce.shared.masking import MASK_VERSION, mask_noise, visible_patches
from lookonce.storage_schemas.arrays import cache_arrays
from lookonce.storage_schemas.manifest import Manifest, validate_manifest
from lookonce.storage_schemas.problems import sealed
from lookonce.storage_schemas.recipe import DatasetIdentity, Recipe, TeacherIdentity
from lookonce.storage_schemas.tokens import (
    AllTokens,
    TokenSubset,
    TopTokens,
    VisibleTokens,
    parse_token_subset,
    token_subset,
)

SUBSETS: dict[str, tuple[TokenSubset, int]] = {
    "all": (AllTokens(), 196),
    "visible": (VisibleTokens(mask="attentive", mask_ratio=0.7), 58),
    "top:0.5": (TopTokens(share=0.5), 98),
    "top:0.3": (TopTokens(share=0.3), 58),
}


@pytest.mark.parametrize("text", SUBSETS)
def test_what_is_typed_is_what_is_stored_and_read_back(text: str) -> None:
    subset, stored = SUBSETS[text]
    assert parse_token_subset(text, mask="attentive", mask_ratio=0.7) == subset
    assert subset.stored_patches(196) == stored
    assert token_subset(json.loads(json.dumps(subset.document()))) == subset
    assert subset.keeps_all is (text == "all")


@pytest.mark.parametrize(
    ("precision", "tokens", "size"),
    [
        ("int8", AllTokens(), 916_000),
        ("int8", TopTokens(share=0.5), 460_000),
        ("int8", VisibleTokens(mask="attentive", mask_ratio=0.7), 274_000),
        ("int4", AllTokens(), 537_000),
        ("int4", TopTokens(share=0.5), 270_000),
        ("int4", VisibleTokens(mask="attentive", mask_ratio=0.7), 161_000),
        ("int4", VisibleTokens(mask="attentive", mask_ratio=0.8), 109_000),
        ("int2", VisibleTokens(mask="attentive", mask_ratio=0.7), 104_000),
    ],
)
def test_bytes_of_a_clip_b16_view_are_those_of_the_documentation(
    precision: str, tokens: TokenSubset, size: int
) -> None:
    teacher = TeacherIdentity(
        name="open_clip:ViT-B-16",
        weights_digest="",
        blocks=(8, 9, 10, 11, 12),
        block_count=12,
        width=768,
        input_size=224,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        compute_precision="fp32",
    )
    dataset = DatasetIdentity(samples=1, digest="")
    recipe = Recipe(teacher=teacher, dataset=dataset, view={"size": 224}, patch_size=16, tokens=tokens)
    found = sum(array.sample_bytes for array in cache_arrays(recipe, precision=precision, store_pixels=True))
    assert round(found, -3) == size


def test_the_documents_are_pinned_because_fingerprints_are_made_of_them() -> None:
    assert AllTokens().document() == {"kind": "all"}
    assert VisibleTokens(mask="random", mask_ratio=0.9).document() == {
        "kind": "visible",
        "masks": "fixed-per-seed",
        "mask": "random",
        "mask_ratio": 0.9,
        "mask_version": MASK_VERSION,
    }
    assert TopTokens(share=0.5).document() == {"kind": "top", "masks": "drawn-inside", "share": 0.5}


@pytest.mark.parametrize(
    "text", ["", "some", "top", "top:", "top:half", "top:0", "top:1", "top:nan", "visible:0.5", "all:1"]
)
def test_other_subsets_are_refused_with_what_was_typed(text: str) -> None:
    with pytest.raises(UsageError, match=r"--tokens"):
        parse_token_subset(text, mask="attentive", mask_ratio=0.7)


@pytest.mark.parametrize(
    ("mask", "ratio"), [("greedy", 0.7), ("random", 1.0), ("random", -0.1), ("random", float("nan"))]
)
def test_visible_refuses_masks_that_cannot_be_drawn(mask: str, ratio: float) -> None:
    with pytest.raises(UsageError, match=r"--tokens visible: (unknown mask|mask ratio)"):
        parse_token_subset("visible", mask=mask, mask_ratio=ratio)


def test_visible_keeps_the_mask_of_a_run_with_seed_0_in_its_first_epoch() -> None:
    importance = np.random.default_rng(0).random((3, 16), dtype=np.float32)
    keys = ["a", "b", "c"]
    kept = stored_patch_ids(VisibleTokens(mask="attentive", mask_ratio=0.7), importance, keys, seed=4)
    assert np.array_equal(kept, visible_patches("attentive", importance, mask_noise(0, 0, keys, [4] * 3, 16), 0.7))
    alone = stored_patch_ids(VisibleTokens(mask="attentive", mask_ratio=0.7), importance[1:2], keys[1:2], seed=4)
    assert np.array_equal(alone, kept[1:2])  # whatever batch the view comes in


def test_top_keeps_the_most_important_and_the_first_among_equals() -> None:
    importance = np.array([[0.1, 0.4, 0.2, 0.4], [1, 1, 1, 1], [0, 0, 0, 2]], dtype=np.float32)
    assert stored_patch_ids(TopTokens(share=0.5), importance, ["a", "b", "c"], 0).tolist() == [[1, 3], [0, 1], [0, 3]]
    assert stored_patch_ids(AllTokens(), importance, ["a", "b", "c"], 0).tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize("text", SUBSETS)
def test_a_manifest_stores_only_the_subset(make_manifest: Callable[..., Manifest], text: str) -> None:
    manifest = make_manifest(tokens=SUBSETS[text][0])
    stored = SUBSETS[text][0].stored_patches(16)
    shapes = {spec.name: spec.sample_shape for spec in manifest.arrays}
    assert shapes["targets"][0] == shapes["target_mean"][0] == shapes["target_std"][0] == stored + 1
    assert shapes["pixels"][0] == stored
    assert shapes["importance"] == (16,)
    assert shapes.get("patch_ids") == (None if text == "all" else (stored,))
    assert validate_manifest(manifest.document()) == []


def _all_as_visible(document: dict[str, Any]) -> None:
    document["recipe"]["tokens"] = VisibleTokens(mask="attentive", mask_ratio=0.7).document()


def _unknown(document: dict[str, Any]) -> None:
    document["recipe"]["tokens"] = {"kind": "every-other"}


def _field_missing(document: dict[str, Any]) -> None:
    document["recipe"]["tokens"] = {"kind": "top"}


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_all_as_visible, "'patch_ids' is missing; tokens 'visible' need it"),
        (_all_as_visible, r"'targets': sample_shape is \[17, 2, 6\], the recipe needs \[5, 2, 6\]"),
        (_unknown, "token subset 'every-other' is not known to this lookonce"),
        (_field_missing, r"needs the fields \['kind', 'masks', 'share'\]"),
    ],
)
def test_a_manifest_that_contradicts_its_subset_is_not_valid(
    make_manifest: Callable[..., Manifest], damage: Callable[[dict[str, Any]], None], found: str
) -> None:
    document: dict[str, Any] = {**make_manifest().document()}
    damage(document)
    del document["digest"]
    problems = "\n".join(map(str, validate_manifest(sealed(document))))
    assert __import__("re").search(found, problems), problems


def test_a_subset_is_another_recipe(make_manifest: Callable[..., Manifest], tmp_path: Path) -> None:
    fingerprints = {make_manifest(tokens=subset).recipe.fingerprint for subset, _ in SUBSETS.values()}
    assert len(fingerprints) == len(SUBSETS)
