"""What a teacher's pixels are normalised by, and its activation: in use, said, and part of the recipe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.prepare import build_recipe, load_config_teacher, open_extraction
from lookonce.extract.teachers import resolve_teacher
from lookonce.extract.teachers.table import adapter_of
from lookonce.shared.errors import UsageError
from lookonce.shared.normalisation import Normalisation

TEACHER = "vit_tiny_patch16_224"
HALVES = (0.5, 0.5, 0.5)
CLIP = Normalisation(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small ViT, named as a hub repository's, and an image."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    save_file(timm.create_model(TEACHER, img_size=32, num_classes=0).state_dict(), folder / "model.safetensors")
    (folder / "images").mkdir()
    (folder / "images" / "grey.ppm").write_bytes(b"P5 40 40 255\n" + bytes(range(40)) * 40)
    return folder


def config(folder: Path, **changes: Any) -> ExtractionConfig:
    options: dict[str, Any] = {
        "teacher": f"timm:{TEACHER}",
        "images": str(folder / "images"),
        "out": folder / "out",
        "view_size": 32,
        "teacher_weights": folder / "model.safetensors",
        **changes,
    }
    return ExtractionConfig(**options)


def test_it_is_used_and_is_part_of_the_recipe_only_where_it_differs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = {}
    for name, changes in {
        "own": {},
        "same": {"mean": HALVES, "std": HALVES},
        "clip": {"mean": CLIP.mean, "std": CLIP.std},
    }.items():
        one = config(folder, **changes)
        teacher = load_config_teacher(one, torch.device("cpu"))
        views = torch.full((1, 32, 32, 3), 128, dtype=torch.uint8)
        used = CLIP if name == "clip" else Normalisation(mean=HALVES, std=HALVES)
        expected = (128 / 255 - torch.tensor(used.mean)) / torch.tensor(used.std)
        torch.testing.assert_close(teacher.normalise_pixels(views)[0, :, 0, 0], expected)
        recipes[name] = build_recipe(open_extraction(one), teacher)
    assert recipes["same"].fingerprint == recipes["own"].fingerprint
    assert recipes["clip"].fingerprint != recipes["own"].fingerprint
    assert recipes["clip"].teacher == dataclasses.replace(recipes["own"].teacher, mean=CLIP.mean, std=CLIP.std)
    lines = [line for line in capsys.readouterr().err.splitlines() if "pixels normalised" in line]
    halves = "mean 0.5 0.5 0.5, std 0.5 0.5 0.5"
    assert lines == [
        f"timm:{TEACHER}: pixels normalised by {halves}; activation GELU",
        f"timm:{TEACHER}: pixels normalised by {halves}; activation GELU",
        f"timm:{TEACHER}: pixels normalised by {CLIP} (its own: {halves}); activation GELU",
    ]


def test_another_normalisation_that_the_file_tells_of_is_mentioned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"architecture": TEACHER, "pretrained_cfg": CLIP.document()}))
    load_config_teacher(config(folder, teacher_weights=file), torch.device("cpu"))
    said = f"{file} names other pixel statistics: {CLIP}; {CLIP.flags} uses them"
    assert said in capsys.readouterr().err
    load_config_teacher(config(folder, teacher_weights=file, mean=CLIP.mean, std=CLIP.std), torch.device("cpu"))
    assert "other pixel statistics" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5, 0.5, 1.5)}, "--mean 0.5 0.5 1.5: must be 3 numbers from 0 to 1"),
        ({"std": (0.5, 0.0, 0.5)}, "--std 0.5 0 0.5: must be 3 numbers from 0 to 1, for red, green, blue, above 0"),
        ({"std": (float("nan"), 0.5, 0.5)}, "--std nan"),
        ({"mean": (123.7, 116.3, 103.5)}, "--mean 123.7 116.3 103.5"),
    ],
)
def test_values_out_of_range_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(folder, **changes)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("open_clip:ViT-B-16", "open_clip:ViT-B-16-quickgelu"),
        ("open_clip:ViT-B-16-quickgelu", "open_clip:ViT-B-16"),
        ("timm:vit_base_patch16_clip_224.laion2b", "timm:vit_base_patch16_clip_quickgelu_224"),
        ("timm:vit_base_patch16_clip_quickgelu_224.openai", "timm:vit_base_patch16_clip_224"),
        ("deit-tiny", None),
        ("open_clip:ViT-H-16", None),
    ],
)
def test_the_twin_with_the_other_gelu_is_mentioned(name: str, twin: str | None) -> None:
    spec = resolve_teacher(name)
    notes = adapter_of(spec.library).activation_notes(spec)
    if twin is None:
        assert notes == []
    else:
        (note,) = notes
        assert note.startswith(
            f"{spec.name} has {'QuickGELU' if 'quickgelu' in spec.name else 'GELU'}; weights trained"
        )
        assert note.endswith(f"give wrong features: use {twin}")


def test_the_activation_in_use_is_the_blocks_own() -> None:
    for name, expected in {"clip-b32": "QuickGELU", "laion-b16": "GELU", "eva02-b16": "SiLU"}.items():
        spec = resolve_teacher(name)
        assert adapter_of(spec.library).build_trunk(spec, spec.patch_size * 2).activation == expected
