"""An extraction on a GPU is what the CPU's is: the same views and digests, targets by drift's rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import timm
import torch
from cuda_dry import DRY
from PIL import Image
from safetensors.torch import save_file

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.clusters.extraction.run import extract_features
from lookonce.extract.config import ExtractionConfig
from lookonce.reports.drift.check import DriftRequest, check_drift

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("default")]

IMAGES, SEEDS, SHARD, BATCH = (11, (0,), 4, 3) if DRY else (37, (0, 1, 2), 15, 4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 60), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def extract(images: Path, weights: Path) -> Callable[..., Path]:
    """Write a cache: three shards of each seed, the last of them and its last batch not full."""

    def make(out: Path, device: torch.device, **changes: Any) -> Path:
        config = {
            "teacher": "timm:vit_tiny_patch16_224",
            "teacher_weights": weights,
            "images": str(images),
            "out": out,
            "seeds": f"{SEEDS[0]}-{SEEDS[-1]}",
            "view_size": 32,
            "patch_size": 8,
            "shard_size": SHARD,
            "batch_size": BATCH,
            "executor": "inline",
            "device": device.type,
            "view_processes": 0,  # auto would start one per core for a dozen images
        }
        extract_features(ExtractionConfig(**{**config, **changes}), show_progress=False)
        return out

    return make


KINDS: list[dict[str, Any]] = [
    {"compute_precision": "fp32", "precision": "fp16"},
    {"compute_precision": "fp16", "precision": "int8", "tokens": "visible"},
    {"compute_precision": "bf16", "precision": "int4", "format": "webdataset"},
    {"compute_precision": "fp16", "precision": "klt1", "layers": "top2"},
]
if not DRY:  # compiling takes a minute on a CPU
    KINDS.append({"compute_precision": "fp16", "precision": "fp8-e4m3", "compile": "always"})
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_stored_values_are_what_the_other_device_sees(
    extract: Callable[..., Path],
    device: torch.device,
    images: Path,
    weights: Path,
    tmp_path: Path,
    kind: dict[str, Any],
    poison: Callable[[], None],
) -> None:
    poison()
    cache = extract(tmp_path / "cache", device, **kind)
    here: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    looking: list[tuple[Path, Literal["cpu", "cuda"]]] = [(cache, "cpu")]
    if kind["precision"] in ("fp16", "int8"):
        looking.append((extract(tmp_path / "of-cpu", CPU, **kind), here))
    for root, looks_on in looking:
        report = check_drift(
            DriftRequest(
                cache=root,
                teacher_weights=weights,
                images=str(images) if "tokens" in kind else None,
                views=IMAGES * len(SEEDS),
                batch_size=16,
                device=looks_on,
            )
        )
        assert (report.views, report.compute_precision) == (IMAGES * len(SEEDS), kind["compute_precision"])
        assert not report.drifted, report.document()
    assert not verify_cache(cache, full=True, workers=2).findings


def test_what_no_teacher_decides_is_equal_to_the_bit(
    extract: Callable[..., Path], device: torch.device, tmp_path: Path
) -> None:
    one, other = (
        CacheReader(extract(tmp_path / name, where, compute_precision="fp32", view_processes=processes))
        for name, where, processes in (("gpu", device, 2), ("cpu", CPU, 0))
    )
    assert one.manifest.recipe.fingerprint == other.manifest.recipe.fingerprint
    rows = np.arange(IMAGES)
    for seed in SEEDS:
        seeds = np.full(IMAGES, seed)
        for name in ("pixels", "pixel_digest"):
            np.testing.assert_array_equal(one.read(name, seeds, rows), other.read(name, seeds, rows))
