"""Teachers' weights: every way they can fail to be had, be read or fit; what the digest means; real DeiT-Tiny."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lookonce.extract.teachers import Teacher, load_teacher, resolve_teacher
from lookonce.extract.teachers.weights import architecture_of
from lookonce.shared.errors import TeacherError
from lookonce.weights.file import open_weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def tiny() -> State:
    """State of a randomly initialised DeiT-Tiny for 64 px, head included."""
    torch.manual_seed(0)
    return dict(timm.create_model("deit_tiny_patch16_224", img_size=64).state_dict())


def load(path: Path | None, **options: Any) -> Teacher:
    defaults: dict[str, Any] = {"view_size": 64, "patch_size": 16, "blocks": "top5"}
    return load_teacher(resolve_teacher("deit-tiny"), weights=path, **{**defaults, **options})


def saved(state: State, path: Path) -> Path:
    save_file(state, path)
    return path


def test_one_digest_for_the_same_values_in_any_container(tiny: State, tmp_path: Path) -> None:
    coarse = {name: value.half().float() for name, value in tiny.items()}
    half = {name: value.half() for name, value in tiny.items()}
    trunk = {n: v for n, v in coarse.items() if not n.startswith(("head.", "norm."))}
    student = {f"backbone.{name}": value + 1 for name, value in coarse.items()}
    teacher = {f"module.backbone.{name}": value for name, value in coarse.items()}
    teacher["module.head.mlp.weight"] = torch.zeros(2, 2)
    checkpoints: dict[str, Any] = {
        "plain": coarse,
        "model": {"model": half, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        "dino": {"student": student, "teacher": teacher},
        "lightning": {"state_dict": {f"module.{name}": value for name, value in coarse.items()}},
        "compiled": {"model": {f"_orig_mod.{name}": value for name, value in coarse.items()}},
    }
    for name, content in checkpoints.items():
        torch.save(content, tmp_path / f"{name}.pth")
    saved(half, tmp_path / "half.safetensors")
    saved(trunk, tmp_path / "trunk.bin")  # what a file is, its content says
    digests = {path.name: load(path).weights_digest for path in sorted(tmp_path.iterdir())}
    assert len(digests) == 7
    assert len(set(digests.values())) == 1, digests
    assert load(tmp_path / "half.safetensors", view_size=96).weights_digest == digests["half.safetensors"]
    coarse["blocks.3.norm1.bias"] = coarse["blocks.3.norm1.bias"].clone()
    coarse["blocks.3.norm1.bias"][5] += 1e-3
    assert load(saved(coarse, tmp_path / "other")).weights_digest not in digests.values()


def test_full_clip_and_its_image_tower_are_the_same_teacher(tmp_path: Path) -> None:
    from open_clip.transformer import VisionTransformer

    from lookonce.extract.teachers.adapters.open_clip_adapter import OpenClipTrunk
    from lookonce.extract.teachers.weights import fit_weights

    def tower() -> Any:
        return VisionTransformer(32, 16, 32, 2, 2, 4.0, output_dim=8)

    state = tower().state_dict()
    text = {"positional_embedding": torch.zeros(77, 8), "transformer.resblocks.0.ln_1.weight": torch.ones(8)}
    full = {**{f"visual.{name}": value for name, value in state.items()}, **text, "logit_scale": torch.tensor(1.0)}
    digests = set()
    for name, content in {"tower": state, "full": full}.items():
        trunk = OpenClipTrunk(tower(), "clip")
        weights = open_weights(saved(content, tmp_path / name)).fitting(architecture_of(trunk, "clip")).state
        digests.add(fit_weights(trunk, weights, name="clip", origin=name))
    assert len(digests) == 1


def without(name: str) -> Callable[[State], Any]:
    return lambda state: {key: value for key, value in state.items() if key != name}


MISFITS: list[tuple[Callable[[State], Any], str]] = [
    (without("cls_token"), r"cls_token should be 1x1x192 and is missing; give"),
    (
        lambda state: {n: v for n, v in state.items() if not n.startswith("blocks.11.")},
        r"blocks\.11\.norm1\.weight should be 192 and is missing, and 11 other parameters",
    ),
    (
        lambda state: {**state, "blocks.2.attn.qkv.weight": torch.zeros(3, 4)},
        r"blocks\.2\.attn\.qkv\.weight should be 576x192 and is 3x4; give",
    ),
    (
        lambda state: {**state, "blocks.12.norm1.weight": torch.zeros(192)},
        r"blocks\.12\.norm1\.weight, 192, is not in the model; give",
    ),
    (
        lambda state: {**state, "pos_embed": torch.zeros(1, 15, 192)},
        r"pos_embed should be 1x17x192 and is 1x15x192; give",
    ),
    (lambda state: {"weight": torch.zeros(2)}, r"cls_token should be 1x1x192 and is missing, and 148 other"),
]


@pytest.mark.parametrize(("change", "says"), MISFITS)
def test_misfit_names_the_first_parameter(
    change: Callable[[State], Any], says: str, tiny: State, tmp_path: Path
) -> None:
    path = saved(change(tiny), tmp_path / "misfit.safetensors")
    with pytest.raises(TeacherError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "timm:deit_tiny_patch16_224" in str(caught.value)


class Malice:
    """What unpickling would run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (open, (str(self.trace), "w"))


def test_bad_files_are_named_and_nothing_in_them_runs(tiny: State, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    whole = saved(tiny, tmp_path / "whole.safetensors").read_bytes()
    torch.save(tiny, tmp_path / "whole.pth")
    torch.save({"model": Malice(trace)}, tmp_path / "malice.pth")
    (tmp_path / "malice.pkl").write_bytes(pickle.dumps(Malice(trace)))
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:100_000])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"Not Found, sorry")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but OpenAI's CLIP files are of this kind
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    bad = ["malice.pth", "malice.pkl", "cut.safetensors", "cut.pth", "empty", "text", "script.pt"]
    for name in bad:
        with pytest.raises(TeacherError, match="cannot read the weights file") as caught:
            load(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_absent_file_folder_and_file_without_tensors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(TeacherError, match="no weights file at"):
            load(path)
    torch.save({"model": {"epoch": 1}}, tmp_path / "nothing.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    for name in ("nothing.pth", "list.pth"):
        with pytest.raises(TeacherError, match="contains no named tensors"):
            load(tmp_path / name)


LOAD = """
import sys
from lookonce.extract.teachers import load_teacher, resolve_teacher
from lookonce.shared.errors import TeacherError
from lookonce.weights.file import open_weights
for name in sys.argv[1:]:
    try:
        spec = resolve_teacher(name)
        print(load_teacher(spec, weights=None, view_size=64, patch_size=16, blocks="top5").weights_digest)
    except TeacherError as error:
        print(error)
    print("open_clip" in sys.modules)
"""


def test_the_hub_cache_gives_what_the_file_gives_and_what_it_lacks_is_named(tmp_path: Path) -> None:
    """In another process, as an environment tells where the hub's cache is; without network, warnings being errors."""
    repository = tmp_path / "hub" / "models--timm--deit_tiny_patch16_224.fb_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    torch.manual_seed(1)
    path = saved(dict(timm.create_model("deit_tiny_patch16_224").state_dict()), tmp_path / "file.safetensors")
    (snapshot / "model.safetensors").symlink_to(path)

    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_CACHE", None)
    names = ["deit-tiny", "deit-small", "clip-b32", "open_clip:ViT-B-32"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    normalised = "pixels normalised by mean 0.485 0.456 0.406, std 0.229 0.224 0.225; activation GELU"
    assert f"timm:deit_tiny_patch16_224: {normalised}" in told
    assert all(line.startswith("taking the weights of ") for line in told if normalised not in line), done.stderr
    digest, open_clip_imported, timm_says, _, clip_says, _, no_tag, _ = done.stdout.splitlines()
    assert digest == load(path).weights_digest
    assert open_clip_imported == "False"
    assert "timm/deit_small_patch16_224.fb_in1k" in timm_says
    assert "timm/vit_base_patch32_clip_224.openai" in clip_says
    assert "no pretrained weights are known for open_clip:ViT-B-32" in no_tag
    assert all("--teacher-weights FILE" in line for line in (timm_says, clip_says, no_tag))


def test_real_deit_tiny_sees_what_timm_sees(data_dir: Path) -> None:
    path = data_dir / "deit_tiny_patch16_224.safetensors"
    teacher = load(path, view_size=224)
    assert (teacher.blocks, teacher.width, teacher.patches) == ((8, 9, 10, 11, 12), 192, 196)
    views = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = teacher.extract(views)

    model: Any = timm.create_model("deit_tiny_patch16_224").eval()
    model.load_state_dict(load_file(path))
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    entering: list[Tensor] = []
    model.blocks[-1].attn.register_forward_pre_hook(lambda _module, inputs: entering.append(inputs[0]))
    with torch.no_grad():
        pixels = (views.permute(0, 3, 1, 2) / 255 - mean) / std
        pairs = model.forward_intermediates(
            pixels, indices=5, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
        hidden = torch.stack([torch.cat([prefix, patches], 1) for patches, prefix in pairs], 2)
        query, key, _ = model.blocks[-1].attn.qkv(entering[0]).reshape(2, 197, 3, 3, 64).permute(2, 0, 3, 1, 4)
        importance = (query @ key.transpose(-2, -1) / 8).softmax(-1).mean(1)[:, 0, 1:]
    expected = torch.nn.functional.layer_norm(hidden, (192,), eps=1e-5)
    torch.testing.assert_close(features.targets, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.importance, importance, rtol=1e-4, atol=1e-7)
