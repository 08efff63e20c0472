"""Teachers against independent forwards of their libraries, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lookonce.extract.teachers import (
    Teacher,
    TeacherSpec,
    known_teachers,
    load_teacher,
    normalise_targets,
    resolve_blocks,
    resolve_teacher,
)
from lookonce.extract.teachers.adapters.timm_trunk import EvaTrunk, TimmTrunk
from lookonce.extract.teachers.weights import fit_weights
from lookonce.shared.errors import TeacherError, UsageError
from lookonce.weights.positions import interpolate_positions


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its initial value, so that none (layer scale, registers, biases) is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def random_views(count: int, size: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def cubic_matrix(source: int, target: int) -> Tensor:
    """(target, source) weights of bicubic interpolation (a = -0.75, half-pixel centres, edges repeated)."""

    def kernel(x: float, a: float = -0.75) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    matrix = np.zeros((target, source))
    for row in range(target):
        position = (row + 0.5) * source / target - 0.5
        base = int(np.floor(position))
        for tap in range(base - 1, base + 3):
            matrix[row, min(max(tap, 0), source - 1)] += kernel(position - tap)
    return torch.tensor(matrix)


def resized(image: Tensor, size: int) -> Tensor:
    """(..., H, W) -> (..., size, size) bicubically, without torch's own interpolation."""
    matrix = cubic_matrix(image.shape[-1], size)
    return (matrix @ image.double() @ matrix.T).to(image.dtype)


def normalised(views: Tensor, spec: TeacherSpec, size: int) -> Tensor:
    pixels = views.permute(0, 3, 1, 2).float() / 255
    pixels = pixels if views.shape[1] == size else resized(pixels, size)
    return (pixels - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[:, None, None]


def attention_of_class_token(attention: Any, tokens: Tensor, prefix: int) -> Tensor:
    """The whole N x N attention of a timm Attention, then the one row that counts."""
    batch, count, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(batch, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(qkv[0]), attention.k_norm(qkv[1])
    full = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)
    return full.mean(1)[:, 0, prefix:]


def timm_reference(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (T, B, 1 + N, C) and importance by timm's own forward_intermediates and a hook."""
    seen: list[Tensor] = []
    handle = model.blocks[-1].attn.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        pairs = model.forward_intermediates(
            pixels, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
        handle.remove()
        hidden = torch.stack([torch.cat([prefix[:, :1], patches], 1) for patches, prefix in pairs])
        importance = attention_of_class_token(model.blocks[-1].attn, seen[0], model.num_prefix_tokens)
    return hidden, importance


def assert_features(
    teacher: Teacher, views: Tensor, hidden: Tensor, importance: Tensor, tolerance: float = 1e-4
) -> None:
    """``look`` gives LayerNormed ``hidden`` (all blocks), with its statistics, and ``importance``."""
    features = teacher.extract(views)
    wanted = hidden[[number - 1 for number in teacher.blocks]].permute(1, 2, 0, 3)
    mean, variance = wanted.mean(-1), wanted.var(-1, correction=0)
    std = (variance + 1e-5).sqrt()
    assert features.targets.shape == (len(views), teacher.tokens, len(teacher.blocks), teacher.width)
    assert features.importance.shape == (len(views), teacher.patches)
    assert {t.dtype for t in (features.targets, features.mean, features.std, features.importance)} == {torch.float32}
    torch.testing.assert_close(
        features.targets, (wanted - mean[..., None]) / std[..., None], rtol=tolerance, atol=tolerance
    )
    torch.testing.assert_close(features.mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.std, std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.importance, importance, rtol=tolerance, atol=1e-7)


TIMM_CASES = [
    ("vit_tiny_patch16_224", "all"),
    ("deit_tiny_distilled_patch16_224", "3,7"),  # two prefix tokens; the last block is not wanted
    ("vit_small_patch14_dinov2", "top5"),  # layer scale, another patch size
    ("vit_small_patch14_reg4_dinov2", "top5"),  # registers, position embedding without prefix
    ("deit3_small_patch16_224", "12"),  # class token without position
]


@pytest.mark.parametrize(("architecture", "blocks"), TIMM_CASES)
def test_timm_teacher_equals_timm(architecture: str, blocks: str, tmp_path: Path) -> None:
    spec = resolve_teacher(f"timm:{architecture}")
    size = 4 * spec.patch_size
    model = randomised(timm.create_model(architecture, img_size=size))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    teacher = load_teacher(spec, weights=tmp_path / "w.safetensors", view_size=64, patch_size=16, blocks=blocks)
    assert (teacher.block_count, teacher.patches, teacher.tokens) == (12, 16, 17)
    assert teacher.input_size == size
    views = random_views(3, 64)
    assert_features(teacher, views, *timm_reference(model, normalised(views, spec, size)))


@pytest.mark.parametrize(
    "options", [{"qk_norm": True}, {"qkv_bias": False, "init_values": 0.1}, {"pre_norm": True, "reg_tokens": 2}]
)
def test_timm_variants_of_attention(options: dict[str, Any]) -> None:
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
    model = randomised(VisionTransformer(**sizes, **options))
    with torch.device("meta"):
        trunk = TimmTrunk(VisionTransformer(**sizes, **options), "timm:variant")
    digest = fit_weights(trunk, model.state_dict(), name="timm:variant", origin="the test")
    spec = TeacherSpec(
        name="timm:variant",
        library="timm",
        architecture="variant",
        tag="",
        patch_size=8,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
    )
    teacher = Teacher(spec, trunk, blocks=(1, 3), view_size=32, input_size=32, weights_digest=digest)
    views = random_views(2, 32)
    assert_features(teacher, views, *timm_reference(model, normalised(views, spec, 32)))


def open_clip_reference(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states by hooks on open_clip's blocks, importance by torch's own weights of the last attention."""
    outputs: list[Tensor] = []
    blocks = visual.transformer.resblocks
    handles = [block.register_forward_hook(lambda _module, _inputs, out: outputs.append(out)) for block in blocks]
    with torch.no_grad():
        visual(pixels)
        [handle.remove() for handle in handles]
        before = blocks[-1].ln_1(outputs[-2])
        full = blocks[-1].attn(before, before, before, need_weights=True, average_attn_weights=True)[1]
    return torch.stack(outputs), full[:, 0, 1:]


def test_clip_l14_is_fed_196_pixels_and_14_by_14_positions(tmp_path: Path) -> None:
    import open_clip
    from open_clip.transformer import QuickGELU, VisionTransformer

    tower = {"image_size": 224, "layers": 3, "width": 64, "patch_size": 14, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": tower, "text_cfg": text}
    (tmp_path / "lookonce-tiny-L-14.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    spec = resolve_teacher("open_clip:lookonce-tiny-L-14")
    assert (spec.patch_size, spec.quick_gelu) == (14, True)

    full = randomised(open_clip.create_model("lookonce-tiny-L-14"))
    state = {name: value.clone() for name, value in full.state_dict().items()}
    save_file(state, tmp_path / "clip.safetensors")
    teacher = load_teacher(spec, weights=tmp_path / "clip.safetensors", view_size=224, patch_size=16, blocks="1,3")
    assert (teacher.input_size, teacher.patches, teacher.width) == (196, 196, 64)

    reference = VisionTransformer(196, 14, 64, 3, 2, 4.0, output_dim=32, act_layer=QuickGELU).eval()
    state = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    grid = state["positional_embedding"][1:].T.reshape(64, 16, 16)
    patches = resized(grid, 14).reshape(64, 196).T
    state["positional_embedding"] = torch.cat([state["positional_embedding"][:1], patches])
    reference.load_state_dict(state)
    views = random_views(2, 224)
    # torch's own bicubic is off by up to 2.7e-5 (of 1) in float32 at 224 -> 196, which the blocks magnify.
    reference_output = open_clip_reference(reference, normalised(views, spec, 196))
    assert_features(teacher, views, *reference_output, tolerance=5e-4)


@pytest.mark.slow
def test_clip_b32_equals_open_clip(tmp_path: Path) -> None:
    import open_clip

    spec = resolve_teacher("clip-b32")
    visual = randomised(open_clip.create_model("ViT-B-32-quickgelu", pretrained_text=False).visual)
    save_file(visual.state_dict(), tmp_path / "visual.safetensors")
    teacher = load_teacher(spec, weights=tmp_path / "visual.safetensors", view_size=112, patch_size=16, blocks="top5")
    views = random_views(2, 112)
    assert_features(teacher, views, *open_clip_reference(visual, normalised(views, spec, 224)))


class SeenOperations(TorchDispatchMode):
    """Names of the operations that run, and the last two sizes of all that they give."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.sizes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.names.append(func.__name__)
        tensors = out if isinstance(out, tuple | list) else (out,)
        self.sizes |= {tuple(t.shape[-2:]) for t in tensors if isinstance(t, Tensor)}
        return out


def small_teacher(library: str, blocks: tuple[int, ...], precision: Any = "fp32") -> Teacher:
    model: Any
    trunk: Any
    torch.manual_seed(0)
    if library == "timm":
        model = VisionTransformer(img_size=40, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0)
        trunk = TimmTrunk(model, "small")
    elif library == "timm-pool":  # SigLIP
        model = VisionTransformer(
            img_size=40, patch_size=8, embed_dim=32, depth=3, num_heads=2, class_token=False, global_pool="map"
        )
        trunk = TimmTrunk(model, "small")
    elif library == "timm-eva":  # DINOv3
        model = Eva(
            img_size=40,
            patch_size=8,
            embed_dim=32,
            depth=3,
            num_heads=2,
            use_rot_pos_emb=True,
            rope_type="dinov3",
            use_abs_pos_emb=False,
            rope_rotate_half=True,
        )
        trunk = EvaTrunk(model, "small")
    else:
        from open_clip.transformer import VisionTransformer as OpenClipVisionTransformer

        from lookonce.extract.teachers.adapters.open_clip_adapter import OpenClipTrunk

        model = OpenClipVisionTransformer(40, 8, 32, 3, 2, 4.0)
        trunk = OpenClipTrunk(model, "small")
    randomised(model)
    spec = TeacherSpec(
        name="small", library="timm", architecture="", tag="", patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return Teacher(spec, trunk, blocks=blocks, view_size=40, input_size=40, weights_digest="", precision=precision)


@pytest.mark.parametrize("library", ["timm", "timm-pool", "timm-eva", "open_clip"])
def test_attention_stays_fused_and_is_never_written_out(library: str) -> None:
    teacher = small_teacher(library, (2, 3))
    with torch.no_grad(), SeenOperations() as seen:
        teacher(random_views(2, 40))
    assert not {(26, 26), (25, 25)} & seen.sizes
    assert sum("scaled_dot_product_flash_attention" in name for name in seen.names) == 3
    assert not any("native_multi_head" in name for name in seen.names)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("library", ["timm", "timm-eva", "open_clip"])
def test_last_block_is_not_run_when_it_is_not_wanted(library: str) -> None:
    views = random_views(2, 40)
    everything, some = small_teacher(library, (1, 2, 3)), small_teacher(library, (1,))
    with torch.no_grad(), SeenOperations() as seen:
        output = some(views)
    assert sum("scaled_dot_product_flash_attention" in name for name in seen.names) == 2
    with torch.no_grad():
        whole = everything(views)
    assert torch.equal(output.hidden[0], whole.hidden[0])
    assert torch.equal(output.importance, whole.importance)


def test_last_block_is_run_for_attention_pooling_alone() -> None:
    views = random_views(2, 40)
    with torch.no_grad():
        whole, some = small_teacher("timm-pool", (1, 2, 3))(views), small_teacher("timm-pool", (1,))(views)
    assert len(some.hidden) == 1
    assert torch.equal(some.hidden[0], whole.hidden[0])
    assert torch.equal(some.importance, whole.importance)


@pytest.mark.parametrize("library", ["timm", "timm-pool", "timm-eva", "open_clip"])
@pytest.mark.parametrize(("precision", "bits"), [("bf16", 8), ("fp16", 11)])
def test_half_precision_is_close_and_keeps_the_residual_stream_in_float32(
    library: str, precision: str, bits: int
) -> None:
    views = random_views(2, 40)
    exact, half = small_teacher(library, (1, 3)), small_teacher(library, (1, 3), precision)
    assert {output.dtype for output in half(views).hidden} == {torch.float32}
    expected, found = exact.extract(views), half.extract(views)
    error = (found.targets - expected.targets).norm() / expected.targets.norm()
    assert 0 < error < 4 * 2**-bits
    torch.testing.assert_close(found.importance, expected.importance, rtol=8 * 2**-bits, atol=0)


def test_teacher_is_frozen_and_refuses_other_views() -> None:
    teacher = small_teacher("timm", (3,))
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.extract(random_views(1, 40)).targets.is_inference()
    with pytest.raises(ValueError, match="uint8"):
        teacher.extract(random_views(1, 40).float())
    with pytest.raises(ValueError, match=r"40, 40, 3"):
        teacher.extract(random_views(1, 48))


def test_a_view_gives_the_same_alone_and_in_a_batch() -> None:
    teacher, views = small_teacher("open_clip", (1, 2, 3)), random_views(4, 40)
    together = teacher.extract(views)
    for index in range(4):
        alone = teacher.extract(views[index : index + 1])
        torch.testing.assert_close(alone.targets[0], together.targets[index], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.importance[0], together.importance[index])


def test_normalise_targets_can_be_undone_and_takes_half_precision() -> None:
    hidden = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0)) * 4 + 2
    targets, mean, std = normalise_targets(list(hidden))
    assert targets.shape == (3, 5, 2, 16)
    restored = targets * std[..., None] + mean[..., None]
    torch.testing.assert_close(restored.permute(2, 0, 1, 3), hidden, rtol=1e-5, atol=1e-5)
    assert {part.dtype for part in normalise_targets(hidden.half())} == {torch.float32}
    flat = normalise_targets(torch.full((1, 1, 1, 8), 3.0))
    assert flat[0].abs().max() == 0
    assert flat[2].item() == pytest.approx(1e-5**0.5)


def test_positions_keep_their_prefix_and_match_the_cubic_kernel() -> None:
    embedding = torch.randn(1, 2 + 25, 6, generator=torch.Generator().manual_seed(0))
    for side in (3, 8):
        found = interpolate_positions(embedding, 2, side * side)
        assert torch.equal(found[:, :2], embedding[:, :2])
        grid = embedding[0, 2:].T.reshape(6, 5, 5)
        torch.testing.assert_close(found[0, 2:], resized(grid, side).reshape(6, -1).T, rtol=1e-5, atol=1e-5)
    assert interpolate_positions(embedding, 2, 25) is embedding


@pytest.mark.parametrize(
    ("text", "count", "wanted"),
    [
        ("top5", 12, (8, 9, 10, 11, 12)),
        ("top1", 3, (3,)),
        ("all", 2, (1, 2)),
        ("10, 8,12", 12, (8, 10, 12)),
    ],
)
def test_resolve_blocks(text: str, count: int, wanted: tuple[int, ...]) -> None:
    assert resolve_blocks(text, count) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("top5", "has 4"),
        ("0", "blocks 1 to 4"),
        ("2,5", r"no block 5 \(of .2,5.\): the teacher has blocks 1 to 4"),
        ("2,2", "more than once"),
        ("", "not understood"),
        ("-1", "not understood"),
        ("last", "not understood"),
        ("1,,2", "not understood"),
        ("top0", "not understood"),
    ],
)
def test_resolve_blocks_refuses(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        resolve_blocks(text, 4)


def test_every_known_teacher_resolves_and_its_architecture_can_teach() -> None:
    from lookonce.extract.teachers.table import adapter_of

    built = set()
    for name in known_teachers():
        spec = resolve_teacher(name)
        assert resolve_teacher(spec.name) == spec
        if (spec.library, spec.architecture) in built:
            continue
        built.add((spec.library, spec.architecture))
        trunk = adapter_of(spec.library).build_trunk(spec, spec.input_size(224, 16))
        assert trunk.patch_count == 196, name
        assert all(parameter.is_meta for parameter in trunk.parameters()), name


def test_aliases_have_one_name() -> None:
    names = ["deit-tiny", "timm:deit_tiny_patch16_224", "timm:deit_tiny_patch16_224.fb_in1k"]
    assert {resolve_teacher(name).name for name in names} == {"timm:deit_tiny_patch16_224"}
    assert len({resolve_teacher(name) for name in names}) == 1
    assert resolve_teacher("dino-b16").name == "timm:vit_base_patch16_224.dino"
    quick = resolve_teacher("open_clip:ViT-B-16/openai")
    assert quick == resolve_teacher("clip-b16")
    assert quick.quick_gelu
    assert not resolve_teacher("open_clip:ViT-B-16/laion2b_s34b_b88k").quick_gelu
    assert resolve_teacher("timm:vit_base_patch16_clip_224.openai").quick_gelu


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("clip", "clip-b16, clip-b32, .*deit-tiny.*timm:NAME"),
        ("other:thing", "unknown teacher"),
        ("timm:vit_bas_patch16_224", "did you mean vit_base_patch16_224"),
        ("timm:deit_tiny_patch16_224.nope", "it has fb_in1k"),
        ("open_clip:ViT-B16/openai", "ViT-B-16"),
        ("open_clip:ViT-B-16/nope", "it has openai"),
    ],
)
def test_unknown_names_say_what_is_known(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        resolve_teacher(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm:resnet50", "it is a ResNet; supported are timm's VisionTransformer and Eva .* open_clip"),
        ("timm:convnext_base", "it is a ConvNeXt; supported are"),
        ("timm:swin_tiny_patch4_window7_224", "it is a SwinTransformer; supported are"),
        ("timm:vit_base_patch16_siglip_gap_224", "neither a class token nor attention pooling"),
        ("timm:vit_small_patch16_18x2_224", "its blocks are ParallelThingsBlock"),
        ("timm:vit_base_patch16_plus_clip_240.nope", "no weights"),
        ("timm:vit_small_patch16_36x1_224", None),
        ("timm:vit_base_patch16_rope_reg1_gap_256", "neither a class token nor attention pooling"),
        ("open_clip:RN50/openai", "image tower is a ResNet; supported are"),
        ("open_clip:convnext_base", "it is a ConvNeXt; supported are"),
    ],
)
def test_unsupported_architectures_say_why(name: str, says: str | None, tmp_path: Path) -> None:
    def load() -> None:
        load_teacher(resolve_teacher(name), weights=tmp_path / "none", view_size=224, patch_size=16, blocks="all")

    with pytest.raises((TeacherError, UsageError), match=says or "no weights file"):
        load()


@pytest.mark.parametrize(("view", "patch"), [(224, 15), (8, 16), (224, 0)])
def test_patch_size_must_divide_the_view(view: int, patch: int) -> None:
    with pytest.raises(UsageError, match="cannot be cut"):
        load_teacher(resolve_teacher("deit-tiny"), weights=None, view_size=view, patch_size=patch, blocks="all")


def test_spec_is_validated() -> None:
    good: dict[str, Any] = {"name": "n", "library": "timm", "architecture": "a", "tag": "", "patch_size": 16}
    with pytest.raises(ValueError, match="std positive"):
        TeacherSpec(**good, mean=(0.5, 0.5, 0.5), std=(0.5, 0.0, 0.5))
    with pytest.raises(ValueError, match="at least 1 pixel"):
        TeacherSpec(**{**good, "patch_size": 0}, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
