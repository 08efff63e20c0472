"""Teachers against numbers from the released code and the teacher libraries (`teacher_*` golden files)."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lookonce.extract.teachers import Teacher, TeacherSpec, normalise_targets
from lookonce.extract.teachers.weights import architecture_of, fit_weights
from lookonce.weights.file import open_weights

FOLDER = Path(os.environ.get("LOOKONCE_GOLDEN_DIR", Path(__file__).resolve().parents[3] / "shared" / "golden"))


def teacher_cases() -> list[Any]:
    listing = FOLDER / "cases.json"
    if not listing.is_file():
        reason = pytest.mark.skip(reason=f"golden numbers not found at {FOLDER} (set LOOKONCE_GOLDEN_DIR)")
        return [pytest.param(None, marks=reason)]
    cases = [case for case in json.loads(listing.read_text()) if case["kind"] == "teacher"]
    return [pytest.param(case, id=Path(case["file"]).stem) for case in cases]


def build_trunk(case: dict[str, Any]) -> Any:
    eps, mlp_ratio = case["layer_norm_eps"], case.get("mlp_ratio", 4.0)
    if case["family"] == "clip":
        from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer

        from lookonce.extract.teachers.adapters.open_clip_adapter import OpenClipTrunk

        model = VisionTransformer(
            case["image"],
            case["patch"],
            case["width"],
            case["layers"],
            case["heads"],
            mlp_ratio,
            act_layer={"quick_gelu": QuickGELU, "gelu": nn.GELU}[case["activation"]],
            norm_layer=partial(LayerNorm, eps=eps),
        )
        return OpenClipTrunk(model, "golden")
    from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

    from lookonce.extract.teachers.adapters.timm_adapter import TimmTrunk

    assert case["activation"] == "gelu"
    model = TimmVisionTransformer(
        img_size=case["image"],
        patch_size=case["patch"],
        embed_dim=case["width"],
        depth=case["layers"],
        num_heads=case["heads"],
        mlp_ratio=mlp_ratio,
        norm_layer=partial(nn.LayerNorm, eps=eps),
        num_classes=0,
    )
    return TimmTrunk(model, "golden")


@pytest.mark.parametrize("case", teacher_cases())
def test_teacher_reproduces_golden(case: dict[str, Any], golden_dir: Path, tmp_path: Path) -> None:
    golden = load_file(golden_dir / case["file"])
    # The weights go the way that a user's file goes: a full CLIP checkpoint, a plain timm one.
    prefix = "visual." if case["family"] == "clip" else ""
    weights = {n.replace("weights.", prefix, 1): v for n, v in golden.items() if n.startswith("weights.")}
    save_file(weights, tmp_path / "weights.safetensors")
    trunk = build_trunk(case)
    state = open_weights(tmp_path / "weights.safetensors").fitting(architecture_of(trunk, "golden")).state
    digest = fit_weights(trunk, state, name="golden", origin="the file")
    library = "open_clip" if case["family"] == "clip" else "timm"
    spec = TeacherSpec(
        name="golden",
        library=library,
        architecture="golden",
        tag="",
        patch_size=case["patch"],
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    teacher = Teacher(
        spec,
        trunk,
        blocks=tuple(range(1, case["layers"] + 1)),
        view_size=case["image"],
        input_size=case["image"],
        weights_digest=digest,
    )

    with torch.inference_mode():
        output = teacher.forward_normalised(golden["pixels"])
        targets, mean, std = normalise_targets(output.hidden)

    hidden = golden["hidden_states"]
    torch.testing.assert_close(torch.stack(output.hidden), hidden, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(targets.permute(2, 0, 1, 3), golden["target"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.importance, golden["importance"], rtol=1e-4, atol=1e-6)
    restored = (targets * std.unsqueeze(-1) + mean.unsqueeze(-1)).permute(2, 0, 1, 3)
    torch.testing.assert_close(restored, hidden, rtol=1e-4, atol=1e-4)
