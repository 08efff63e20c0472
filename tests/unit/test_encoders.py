from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from lookonce.extract.teachers import load_teacher, resolve_teacher
from lookonce.shared.errors import CheckpointError, NumericalError, UsageError
from lookonce.shared.normalisation import IMAGENET
from lookonce.shared.sources import ImageFolder, Listing, ListingEntry
from lookonce.train.evaluation.encoders.encoder import encode_split
from lookonce.train.evaluation.encoders.pooling import POOLS, Pool, pool_tokens
from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder, load_student
from lookonce.train.evaluation.encoders.teacher_encoder import TeacherEncoder
from lookonce.train.evaluation.labelled_images import LabelledSplit
from lookonce.train.model.student import Student
from lookonce.train.model.student_file import save_student

NAME = "test_vit"
SIZE = 32
TEACHER = "vit_tiny_patch16_224"


def some_views(count: int = 3, size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def last_block(model: torch.nn.Module, views: NDArray[np.uint8], mean: object, std: object) -> Tensor:
    """Raw output of timm's own last block, by a hook: an independent forward of the whole model."""
    kept: list[Tensor] = []
    model.blocks[-1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))  # type: ignore[index, union-attr]
    pixels = torch.from_numpy(views).float() / 255
    with torch.inference_mode():
        model.eval()(((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2))
    return kept[0]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "student.safetensors"
    save_student(Student(NAME, img_size=SIZE, seed=3), path)
    return path


def rewritten(path: Path, changes: dict[str, Tensor | None], metadata: dict[str, str] | None = None) -> Path:
    """A copy of a file with some parameters changed or (None) left out."""
    state = {**load_file(path), **changes}
    target = path.with_name("rewritten.safetensors")
    save_file({key: value for key, value in state.items() if value is not None}, target, metadata)
    return target


def test_pooling_is_layer_norm_then_the_named_tokens() -> None:
    tokens = torch.randn(2, 5, 8) * 7 + 3
    normed = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(pool_tokens(tokens, "cls"), normed[:, 0])
    torch.testing.assert_close(pool_tokens(tokens, "mean"), normed[:, 1:].mean(1))
    both = pool_tokens(tokens, "cls+mean")
    torch.testing.assert_close(both[:, :8], functional.normalize(normed[:, 0], dim=1))
    torch.testing.assert_close(both[:, 8:], functional.normalize(normed[:, 1:].mean(1), dim=1))


def test_an_unknown_pool_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"unknown pool 'max'; known: cls, mean, cls\+mean"):
        pool_tokens(torch.zeros(1, 2, 4), "max")  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", POOLS)
def test_a_student_encodes_as_timm_does_with_its_weights(weights: Path, pool: Pool) -> None:
    encoder = StudentEncoder(load_student(weights), pool=pool, weights=weights)
    model = timm.create_model(NAME, img_size=SIZE, num_classes=0)
    model.load_state_dict(load_file(weights))
    expected = pool_tokens(last_block(model, some_views(), IMAGENET.mean, IMAGENET.std), pool)
    features = encoder(some_views())
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert encoder.document()["kind"] == "student"
    assert (encoder.view_size, encoder.document()["patch_size"]) == (SIZE, 16)


@pytest.mark.parametrize("pool", POOLS)
def test_a_teacher_encodes_by_the_same_rule(tmp_path: Path, pool: Pool) -> None:
    model = timm.create_model(TEACHER, img_size=SIZE, num_classes=5)
    path = tmp_path / "teacher.safetensors"
    save_file(model.state_dict(), path)
    teacher = load_teacher(
        resolve_teacher(f"timm:{TEACHER}"), weights=path, view_size=SIZE, patch_size=16, blocks="top1"
    )
    encoder = TeacherEncoder(teacher, pool=pool, weights=path)
    expected = pool_tokens(last_block(model, some_views(), (0.5,) * 3, (0.5,) * 3), pool)
    torch.testing.assert_close(encoder(some_views()), expected, rtol=1e-4, atol=1e-5)
    document = encoder.document()
    assert (document["kind"], document["weights"], document["view_size"]) == ("teacher", str(path), SIZE)
    assert str(document["weights_digest"]).startswith("sha256:")


def test_a_file_says_which_student_it_holds(weights: Path) -> None:
    student = load_student(weights)
    assert (student.name, student.img_size) == (NAME, SIZE)
    assert torch.equal(student.model.cls_token, Student(NAME, img_size=SIZE, seed=3).model.cls_token)


def test_a_file_without_metadata_needs_a_name_and_tells_its_view_size(weights: Path) -> None:
    anonymous = rewritten(weights, {})
    with pytest.raises(UsageError, match=r"rewritten\.safetensors: the file does not name its model.* --student"):
        load_student(anonymous)
    assert load_student(anonymous, name=NAME).img_size == SIZE


def test_a_given_name_goes_before_the_files_own(weights: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"does not fit vit_tiny_patch16_224 at 32 px: cls_token should be 1x1x192"
    ):
        load_student(weights, name=TEACHER)


def test_a_head_in_the_file_is_no_hindrance(weights: Path) -> None:
    headed = rewritten(weights, {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)})
    assert load_student(headed, name=NAME).name == NAME


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.0.attn.qkv.weight": None}, r"blocks\.0\.attn\.qkv\.weight should be 192x64 and is missing; name"),
        ({"cls_token": torch.zeros(1, 1, 63)}, r"cls_token should be 1x1x64 and is 1x1x63; name"),
        ({"adapters.0": torch.zeros(2, 3)}, r"adapters\.0, 2x3, is not in the model; name"),
        ({"cls_token": None, "norm.bias": None}, r"cls_token should be .* missing, and 1 other parameters do not fit"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    weights: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_student(rewritten(weights, changes), name=NAME)


def test_files_that_hold_no_student_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found no file"):
        load_student(tmp_path / "none.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load_student(damaged)
    other = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(2, 2)}, other)
    with pytest.raises(CheckpointError, match=r"found fc\.weight"):
        load_student(other, name=NAME)


def test_features_that_are_not_finite_name_the_image(tmp_path: Path) -> None:
    class Broken:
        view_size = 8

        def __call__(self, views: NDArray[np.uint8]) -> Tensor:
            return torch.where(torch.arange(len(views))[:, None] == 1, torch.nan, torch.ones(len(views), 2))

        def document(self) -> dict[str, object]:
            return {}

    class Grey(ImageFolder):
        def read(self, entry: ListingEntry) -> bytes:
            return b"P5 8 8 255\n" + bytes(64)

    listing = Listing(tuple(ListingEntry(f"a/{name}.ppm", 0, 75) for name in "pqr"), ("a",))
    split = LabelledSplit(name="train", source=Grey(tmp_path), listing=listing)
    with pytest.raises(NumericalError, match=r"train: the features of 1 of 3 images .* the first of a/q\.ppm"):
        encode_split(Broken(), split, batch_size=8)
