from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from lookonce.commands.evaluate_student import main
from lookonce.train.model.student import Student
from lookonce.train.model.student_file import save_student

STUDENT = "test_vit"
TEACHER = "vit_tiny_patch16_224"
COLOURS = np.array([(20, 30, 200), (20, 180, 40), (210, 30, 20)], dtype=np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of squares of three noisy colours, and masks of them."""
    folder = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = generator.integers(0, 3, (2, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
            pixels = np.clip(generator.normal(COLOURS[mask], 12), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / split / "images" / f"{number}.jpg", quality=95)
            Image.fromarray(mask).save(folder / split / "masks" / f"{number}.png")
    return folder


def run(capsys: pytest.CaptureFixture[str], data: Path, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command, in this process."""
    folders = ("--images", data / "train" / "images", "--masks", data / "train" / "masks")
    val = ("--val-images", data / "val" / "images", "--val-masks", data / "val" / "masks")
    with pytest.raises(SystemExit) as stopped:
        main([str(one) for one in ("segment", *folders, *val, "--device", "cpu", *arguments)])
    out, err = capsys.readouterr()
    return int(str(stopped.value.code)), out, err


def result(capsys: pytest.CaptureFixture[str], data: Path, *arguments: object) -> Any:
    code, out, err = run(capsys, data, "--json", *arguments)
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("head", [("knn", "--k", 5), ("linear", "--epochs", 30, "--base-lr", 0.1)])
def test_student_untrained_and_teacher(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, head: tuple[object, ...]
) -> None:
    weights, teacher = tmp_path / "student.safetensors", tmp_path / "teacher.safetensors"
    save_student(Student(STUDENT, img_size=64, seed=1), weights)
    save_file(timm.create_model(TEACHER, img_size=64, num_classes=3).state_dict(), teacher)
    views = ("--view-size", 64, "--seed", 1, "--head", *head)
    student = result(capsys, data, "--weights", weights, *views)
    untrained = result(capsys, data, "--untrained", "--student", STUDENT, *views)
    of_teacher = result(capsys, data, "--teacher", f"timm:{TEACHER}", "--teacher-weights", teacher, *views)
    for document in (student, untrained, of_teacher):
        assert document["mean_iou"] > 0.6
        assert document["pixel_accuracy"] > 0.75
        assert (document["view_size"], document["grid"], document["windows"]) == (64, 4, "slide")
        assert document["smallest_mask"] == document["largest_mask"] == [96, 64]
        assert [one["class"] for one in document["per_class"]] == [0, 1, 2]
    assert [one["evaluated"]["kind"] for one in (student, untrained, of_teacher)] == [
        "student",
        "untrained student",
        "teacher",
    ]
    assert (student["block"], of_teacher["block"]) == (6, 12)
    assert {**student, "evaluated": untrained["evaluated"]} == untrained  # the student has the same weights


def test_any_size_and_block(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "student.safetensors"
    save_student(Student(STUDENT, img_size=32, seed=1), weights)
    document = result(capsys, data, "--weights", weights, "--view-size", 96, "--block", 2, "--windows", "crop")
    assert (document["view_size"], document["grid"], document["block"], document["windows"]) == (96, 6, 2, "crop")
    assert document["largest_mask"] == [64, 64]
    code, _, err = run(capsys, data, "--weights", weights, "--block", 7)
    assert code == 2
    assert "--block 7: test_vit has blocks 1 to 6" in err
    code, _, err = run(capsys, data, "--weights", weights, "--view-size", 90)
    assert code == 2
    assert "views of 90 pixels are not cut evenly" in err


def test_the_summary_for_people(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    code, out, err = run(capsys, data, "--untrained", "--student", STUDENT, "--view-size", 64)
    assert code == 0
    lines = out.splitlines()
    assert lines[:6] == [
        "untrained student test_vit",
        "images    6 train, 3 test, 3 classes, ignored: 255",
        "features  64 values of each of 4 x 4 patches, block 6 of 6",
        "views     slide: sliding squares of the shorter side, resized to 64 x 64 px",
        "masks     96 x 64 px, at their own size",
        "head      k-NN of patches, k = 30, 192 training patches",
    ]
    assert lines[6].startswith("mean IoU  ")
    assert lines[6].endswith(" over 3 classes")
    assert err.startswith("evaluating an untrained test_vit on ")


def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    untrained = ("--untrained", "--student", STUDENT, "--view-size", 64)
    code, out, err = run(capsys, data, *untrained, "--json", "--val-masks", tmp_path / "nowhere")
    assert code == 1
    assert json.loads(out)["error"]["kind"] == "source"
    assert "expected a folder of images, found nothing there" in err
    code, _, err = run(capsys, data, *untrained, "--val-images", data / "train" / "images")
    assert code == 1
    assert "(3 of 6 images have no mask); add the mask, or remove the image" in err
    code, _, err = run(capsys, data, *untrained, "--epochs", 3)
    assert code == 2
    assert "--epochs 3 has no effect here: it goes with --head linear" in err


def test_a_teacher_segments_coco_better_than_an_untrained_model(
    capsys: pytest.CaptureFixture[str], data_dir: Path, tmp_path: Path
) -> None:
    """Twenty images of each split, at 112 px; docs/results.md has all of them at 224."""
    coco = data_dir / "coco"
    if not coco.is_dir():
        pytest.skip(f"no COCO images with masks at {coco}")
    for split in ("train", "val"):
        for kind, source in (("images", f"{split}2017"), ("masks", f"semantic_{split}2017")):
            (tmp_path / split / kind).mkdir(parents=True)
            for path in sorted((coco / source).iterdir())[:20]:
                os.symlink(path, tmp_path / split / kind / path.name)
    common = ("--ignore", "0,255", "--view-size", 112)
    teacher = ("--teacher", "deit-tiny", "--teacher-weights", data_dir / "deit_tiny_patch16_224.safetensors")
    untrained = ("--untrained", "--student", TEACHER)
    better, worse = (result(capsys, tmp_path, *model, *common) for model in (teacher, untrained))
    assert better["mean_iou"] > 1.5 * worse["mean_iou"]
    assert better["pixel_accuracy"] > worse["pixel_accuracy"] + 0.05
