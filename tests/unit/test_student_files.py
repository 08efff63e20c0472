"""What a student's file says of itself: timm loads it rightly, evaluation reads it, and what it lacks is said."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_data_config

from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.shared.normalisation import IMAGENET, Normalisation
from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder, load_student
from lookonce.train.evaluation.finetune.finetune_model import classifier, classifier_arguments
from lookonce.train.model.initial_weights import start_from_weights
from lookonce.train.model.student import Student
from lookonce.train.model.student_file import save_student, save_weights
from lookonce.train.model.timm_description import leave_timm_folder, timm_description

NAME, SIZE = "test_vit", 32
HALVES = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def student() -> Student:
    return Student(NAME, img_size=SIZE, seed=3, normalisation=HALVES)


@pytest.fixture
def file(student: Student, tmp_path: Path) -> Path:
    save_student(student, tmp_path / "student.safetensors")
    return tmp_path / "student.safetensors"


def read(path: Path, **options: Any) -> tuple[Student, list[str]]:
    notes: list[str] = []
    return load_student(path, say=notes.append, **options), notes


def local_hub(folder: Path) -> Any:
    return lambda repo_id, filename=None, **_: str(folder / filename)


@pytest.mark.parametrize("source", ["local-dir", "hf-hub"])
def test_timm_loads_the_folder_beside_the_file(
    source: str, file: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = file.with_suffix("")
    if source == "hf-hub":
        monkeypatch.setattr("timm.models._hub.hf_hub_download", local_hub(folder))
    name = f"local-dir:{folder}" if source == "local-dir" else "hf-hub:someone/student"
    model: Any = timm.create_model(name, pretrained=True)
    state = student.export_state()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    data = resolve_data_config({}, model=model)
    assert data["input_size"] == (3, SIZE, SIZE)
    assert (tuple(data["mean"]), tuple(data["std"])) == (HALVES.mean, HALVES.std)
    assert (data["crop_pct"], data["interpolation"]) == (224 / 256, "bicubic")
    headed: Any = timm.create_model(name, pretrained=True, num_classes=7)
    assert headed.head.weight.shape == (7, student.dim)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_timm_loads_a_classifier_with_its_pooling_and_classes(pool: Any, student: Student, tmp_path: Path) -> None:
    tuned = classifier(student, 3, pool, drop_path=0.0, seed=0)
    arguments = classifier_arguments(student, 3, pool)
    description = timm_description(
        student, classes=("a", "b", "c"), model_args={"global_pool": arguments["global_pool"]}
    )
    save_weights(tuned.state_dict(), {}, tmp_path / "model.safetensors")
    leave_timm_folder(tmp_path / "model.safetensors", description)
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    pixels = torch.randn(1, 3, SIZE, SIZE)
    assert torch.equal(model(pixels), tuned.eval()(pixels))
    assert model.pretrained_cfg["label_names"] == ["a", "b", "c"]


def test_the_metadata_holds_timms_pretrained_cfg(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    config = json.loads(metadata["pretrained_cfg"])
    assert (config["architecture"], config["input_size"], config["num_classes"]) == (NAME, [3, SIZE, SIZE], 0)
    assert (config["mean"], config["std"]) == ([0.5] * 3, [0.5] * 3)
    assert (metadata["student"], metadata["view_size"], metadata["patch_size"]) == (NAME, "32", "16")


def test_the_folder_takes_no_space_and_follows_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = file.with_suffix("") / "model.safetensors"
    assert os.path.samefile(file, inside)
    other = Student(NAME, img_size=SIZE, seed=4)
    save_student(other, file)
    assert os.path.samefile(file, inside)
    save_student(other, file)

    def no_links(*_: Any) -> None:
        raise OSError(errno.EXDEV, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    save_student(Student(NAME, img_size=SIZE, seed=5), file)
    assert not os.path.samefile(file, inside)
    assert file.read_bytes() == inside.read_bytes()
    assert sorted(path.name for path in inside.parent.iterdir()) == ["config.json", "model.safetensors"]


def test_the_normalisation_is_the_files_or_the_given(file: Path, student: Student) -> None:
    found, notes = read(file)
    assert found.normalisation == HALVES
    assert notes == [f"{NAME}: pixels normalised by {HALVES} (as the file records)"]
    views = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    own = StudentEncoder(student, pool="mean")
    assert torch.equal(StudentEncoder(found, pool="mean")(views), own(views))
    assert own.document()["mean"] == [0.5] * 3
    given, notes = read(file, mean=IMAGENET.mean, std=IMAGENET.std)
    assert given.normalisation == IMAGENET
    assert notes == [f"{NAME}: pixels normalised by {IMAGENET} (as given, not {HALVES}, as the file records)"]
    assert not torch.equal(StudentEncoder(given, pool="mean")(views), own(views))
    assert "mean" not in StudentEncoder(given, pool="mean").document()


def test_files_that_do_not_say_are_taken_as_imagenets_and_it_is_said(student: Student, tmp_path: Path) -> None:
    state = student.export_state()
    save_file(state, tmp_path / "old.safetensors", metadata={"student": NAME, "view_size": "32"})
    found, notes = read(tmp_path / "old.safetensors")
    assert found.normalisation == IMAGENET
    assert "(ImageNet's, which lookonce used before files recorded it)" in notes[0]
    torch.save({"model": state}, tmp_path / "foreign.pth")
    found, notes = read(tmp_path / "foreign.pth", name=NAME)
    assert found.normalisation == IMAGENET
    assert notes[0].startswith(f"{NAME}: pixels normalised by {IMAGENET} (ImageNet's, because the file records none")
    assert notes[1].endswith("the weights are those under 'model'")
    torch.save(Student("vit_tiny_patch16_224", img_size=SIZE).export_state(), tmp_path / "tiny.pth")
    _, (note,) = read(tmp_path / "tiny.pth", name="vit_tiny_patch16_224")
    assert "timm's own weights of vit_tiny_patch16_224 have mean 0.5 0.5 0.5" in note
    assert "--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5" in note


def test_a_hub_folder_says_by_its_config(student: Student, tmp_path: Path) -> None:
    save_file(student.export_state(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME, "pretrained_cfg": HALVES.document()}))
    found, notes = read(tmp_path)
    assert (found.name, found.img_size, found.normalisation) == (NAME, SIZE, HALVES)
    assert notes[1] == f"taking {tmp_path / 'model.safetensors'}"


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_fine_tuned_model_is_a_student(pool: Any, student: Student, tmp_path: Path) -> None:
    tuned = classifier(student, 3, pool, drop_path=0.0, seed=0)
    metadata = {"timm": json.dumps(classifier_arguments(student, 3, pool))}
    save_weights(tuned.state_dict(), metadata, tmp_path / "model.safetensors")
    found, notes = read(tmp_path)
    assert (found.name, found.img_size) == (NAME, SIZE)
    for key, value in student.export_state().items():
        if key not in ("norm.weight", "norm.bias"):
            assert torch.equal(found.export_state()[key], value), key
    heads = "fc_norm., head.*" if pool == "mean" else "head.*"
    assert f"its classifier ({heads}) is dropped, features are taken before it" in notes[-1]


def test_positions_are_interpolated_to_another_view_size(file: Path, student: Student) -> None:
    found, notes = read(file, view_size=64)
    assert (found.img_size, found.model.pos_embed.shape) == (64, (1, 17, student.dim))
    assert torch.equal(found.model.pos_embed[:, 0], student.model.pos_embed[:, 0])
    assert notes[-1].endswith("was trained on views of 32 px: position embeddings are interpolated to 64 px")
    with pytest.raises(UsageError, match="views of 40 pixels are not cut evenly"):
        load_student(file, view_size=40)


def test_training_starts_from_weights_whose_normalisation_fits(file: Path, student: Student, tmp_path: Path) -> None:
    fresh = Student(NAME, img_size=SIZE, seed=0, normalisation=HALVES)
    assert start_from_weights(fresh, file.parent)[0] == f"the student starts from {file}"
    assert all(torch.equal(fresh.export_state()[key], value) for key, value in student.export_state().items())
    assert not fresh.model.pos_embed.requires_grad
    with pytest.raises(UsageError, match=r"was trained on pixels normalised by mean 0\.5.*give --mean 0\.5 0\.5 0\.5"):
        start_from_weights(Student(NAME, img_size=SIZE), file)
    larger = Student(NAME, img_size=64, normalisation=HALVES)
    assert "interpolated from views of 32 px to 64" in start_from_weights(larger, file)[-1]
    save_file(load_file(file), tmp_path / "unknown.safetensors")
    notes = start_from_weights(fresh, tmp_path / "unknown.safetensors")
    assert f"does not record the normalisation of its pixels, this run uses {HALVES}" in notes[-1]
    with pytest.raises(CheckpointError, match="does not fit vit_tiny_patch16_224"):
        start_from_weights(Student("vit_tiny_patch16_224", img_size=SIZE, normalisation=HALVES), file)
