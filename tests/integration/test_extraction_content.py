"""What an extraction of real photographs by a real teacher leaves, checked without lookonce's own code."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import timm
import torch
import zarr
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import functional as tvf

BLOCKS = range(8, 13)


@pytest.fixture(scope="module")
def photo_arguments(data_dir):
    def build(out, **changes):
        flags = {
            "teacher": "timm:deit_tiny_patch16_224",
            "images": data_dir / "photos",
            "out": out,
            "teacher_weights": data_dir / "deit_tiny_patch16_224.safetensors",
            "executor": "inline",
            "precision": "fp16",
            "limit": 10,
            "batch_size": 4,
            "shard_size": 4,
        } | changes
        given = [(f"--{name.replace('_', '-')}", value) for name, value in flags.items() if value is not None]
        return [part for pair in given for part in pair]

    return build


@pytest.fixture(scope="module")
def photos(forks, photo_arguments, tmp_path_factory):
    """Ten photographs, two seeds, fp16."""
    root = tmp_path_factory.mktemp("photos") / "cache"
    ended = forks.start([*photo_arguments(root, seeds="0-1"), "--json"]).wait()
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["views_written"] == 20  # one JSON object, and nothing else
    assert "20/20" in ended.err
    root.with_name("summary.json").write_text(ended.out)
    return root


@pytest.fixture(scope="module")
def model(data_dir):
    model = timm.create_model("deit_tiny_patch16_224", num_classes=0).eval()
    model.load_state_dict(load_file(data_dir / "deit_tiny_patch16_224.safetensors"), strict=False)
    return model


def unpatched(pixels):
    count = len(pixels)
    return pixels.reshape(count, 14, 14, 16, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(count, 224, 224, 3)


@torch.inference_mode()
def independent_forward(model, views):
    """Block outputs (L, B, 197, 192) and explicit attention of the class token in the last block (B, 196)."""
    pixels = torch.from_numpy(views).permute(0, 3, 1, 2) / 255
    pixels = tvf.normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    before_last = {}
    model.blocks[-1].register_forward_pre_hook(lambda _, inputs: before_last.update(tokens=inputs[0]))
    hidden = model.forward_intermediates(
        pixels,
        indices=[block - 1 for block in BLOCKS],
        norm=False,
        output_fmt="NLC",
        return_prefix_tokens=True,
        intermediates_only=True,
    )
    hidden = torch.stack([torch.cat([prefix, patches], dim=1) for patches, prefix in hidden])
    block = model.blocks[-1]
    qkv = block.attn.qkv(block.norm1(before_last["tokens"]))
    query, key, _ = qkv.reshape(len(views), 197, 3, 3, 64).permute(2, 0, 3, 1, 4)
    attention = (query @ key.transpose(-2, -1) / 8).softmax(-1)
    return hidden, attention[:, :, 0, 1:].mean(1)


@pytest.mark.parametrize("seed", [0, 1])
def test_pixels_are_the_view_that_its_crop_and_flip_say(photos, data_dir, seed):
    group = zarr.open_group(photos / f"seed-{seed:04d}", mode="r")
    views = unpatched(group["pixels"][:])
    names = sorted(path.name for path in (data_dir / "photos").iterdir())[:10]
    assert list(group["key"][:]) == names
    for name, view, (top, left, height, width, flip, source_height, source_width) in zip(
        names, views, group["view"][:].tolist(), strict=True
    ):
        image = Image.open(data_dir / "photos" / name).convert("RGB")
        assert (image.height, image.width) == (source_height, source_width)
        expected = tvf.resized_crop(image, top, left, height, width, [224, 224], tvf.InterpolationMode.BICUBIC)
        expected = tvf.hflip(expected) if flip else expected
        np.testing.assert_array_equal(view, np.asarray(expected))


def test_both_orientations_are_there(photos):
    flips = [zarr.open_group(photos / f"seed-{seed:04d}", mode="r")["view"][:, 4] for seed in (0, 1)]
    assert 0 < np.sum(flips) < 20


@pytest.mark.parametrize("seed", [0, 1])
def test_targets_and_importance_are_an_independent_forwards(photos, model, seed):
    group = zarr.open_group(photos / f"seed-{seed:04d}", mode="r")
    hidden, importance = independent_forward(model, unpatched(group["pixels"][:]))
    hidden = hidden.permute(1, 2, 0, 3)  # token-major
    mean, variance = hidden.mean(-1), hidden.var(-1, correction=0)
    targets = (hidden - mean[..., None]) / torch.sqrt(variance + 1e-5)[..., None]
    stored = group["targets"]
    assert (stored.dtype, stored.shape) == (np.float16, (10, 197, 5, 192))
    np.testing.assert_allclose(stored[:].astype(np.float32), targets.numpy(), rtol=2**-11, atol=5e-5)
    np.testing.assert_allclose(group["target_mean"][:], mean.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(group["target_std"][:], torch.sqrt(variance + 1e-5).numpy(), rtol=1e-4)
    np.testing.assert_allclose(group["importance"][:], importance.numpy(), rtol=1e-4, atol=1e-7)


def relative_error_of_int8(forks, photo_arguments, model, root, **changes):
    ended = forks.start(photo_arguments(root, precision="int8", **changes)).wait()
    assert ended.code == 0, ended.err
    group = zarr.open_group(root / "seed-0000", mode="r")
    hidden, _ = independent_forward(model, unpatched(group["pixels"][:]))
    hidden = hidden.permute(1, 2, 0, 3)
    targets = torch.nn.functional.layer_norm(hidden, (192,), eps=1e-5).numpy()
    from lookonce.cache.read.reader import CacheReader

    reader = CacheReader(root)
    decoded = reader.decode(reader.read("targets", [0] * len(targets), range(len(targets))))
    return np.linalg.norm(decoded - targets) / np.linalg.norm(targets)


def test_int8_error(forks, photo_arguments, model, tmp_path):
    assert relative_error_of_int8(forks, photo_arguments, model, tmp_path / "cache") <= 0.012


@pytest.mark.slow
def test_int8_error_on_all_photographs(forks, photo_arguments, model, tmp_path):
    error = relative_error_of_int8(forks, photo_arguments, model, tmp_path / "cache", limit=None, batch_size=32)
    assert 0.005 < error <= 0.012


def test_other_shards_batches_and_place_make_the_same_cache(forks, photo_arguments, photos, data_dir, tmp_path, model):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in sorted((data_dir / "photos").iterdir())[:10]:
        shutil.copy(path, elsewhere)
    root = tmp_path / "cache"
    changes = {"shard_size": 7, "batch_size": 3, "images": elsewhere, "limit": None}
    assert forks.start(photo_arguments(root, **changes)).wait().code == 0
    first, second = (json.loads((cache / "manifest.json").read_text()) for cache in (photos, root))
    assert first["fingerprint"] == second["fingerprint"]
    ours, theirs = (zarr.open_group(cache / "seed-0000", mode="r") for cache in (photos, root))
    for name in ("pixels", "pixel_digest", "view", "key", "label"):
        np.testing.assert_array_equal(ours[name][:], theirs[name][:])
    views = unpatched(ours["pixels"][:])
    by_four = torch.cat([independent_forward(model, views[start : start + 4])[0] for start in (0, 4, 8)], dim=1)
    by_three = torch.cat([independent_forward(model, views[start : start + 3])[0] for start in (0, 3, 6, 9)], dim=1)
    normed = [torch.nn.functional.layer_norm(one, (192,), eps=1e-5) for one in (by_four, by_three)]
    own = float((normed[0] - normed[1]).abs().max())
    found = ours["targets"][:].astype(np.float32) - theirs["targets"][:].astype(np.float32)
    step = 2.0**-10 * np.abs(ours["targets"][:].astype(np.float32)) + 2.0**-24  # rounding to fp16 may go either way
    assert (np.abs(found) <= 4 * own + step).all()


def test_without_pixels_their_digests_remain(forks, photo_arguments, photos, tmp_path):
    root = tmp_path / "cache"
    assert forks.start(photo_arguments(root, pixels="none", limit=10)).wait().code == 0
    ours, theirs = (zarr.open_group(cache / "seed-0000", mode="r") for cache in (photos, root))
    assert "pixels" not in set(theirs.array_keys())
    assert not (root / "seed-0000" / "pixels").exists()
    np.testing.assert_array_equal(ours["pixel_digest"][:], theirs["pixel_digest"][:])
    np.testing.assert_array_equal(ours["targets"][:], theirs["targets"][:])


@pytest.mark.slow
def test_two_ray_workers_on_photographs_write_the_bytes_of_inline(forks, photo_arguments, photos, files, tmp_path):
    root = tmp_path / "cache"
    ended = forks.start(photo_arguments(root, seeds="0-1", executor="ray", workers=2)).wait()
    assert ended.code == 0, ended.err
    assert files(root) == files(photos)


def test_the_summary_tells_the_lowest_and_the_highest_signals_of_a_shard(photos, model):
    norms, entropies = [], []
    for seed in (0, 1):
        pixels = unpatched(zarr.open_group(photos / f"seed-{seed:04d}", mode="r")["pixels"][:])
        hidden, importance = independent_forward(model, pixels)
        share = importance / importance.sum(1, keepdim=True)
        entropy = -(share * share.log()).sum(1)
        for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
            norms.append(float(hidden.norm(dim=-1)[:, rows].mean()))
            entropies.append(float(entropy[rows].mean()))
    summary = json.loads(photos.with_name("summary.json").read_text())
    assert summary["signals"]["feature_norm"] == pytest.approx([min(norms), max(norms)], rel=1e-3)
    assert summary["signals"]["importance_entropy"] == pytest.approx([min(entropies), max(entropies)], rel=1e-3)
    assert summary["saturated_share"] == 0
