from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
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
COLOURS = {"blue": (20, 30, 200), "green": (20, 180, 40), "red": (210, 30, 20)}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy patches of three colours: classes that any weights can tell apart."""
    folder = tmp_path_factory.mktemp("colours")
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(generator.normal(colour, 12, (40, 36, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "student.safetensors"
    save_student(Student(STUDENT, img_size=32, seed=1), path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command, in this process."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(str(stopped.value.code)), out, err


def result(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, out, err = run(capsys, "knn", "--json", "--device", "cpu", *arguments)
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def test_a_student_from_its_file(capsys: pytest.CaptureFixture[str], images: Path, weights: Path) -> None:
    document = result(capsys, "--weights", weights, "--images", images, "--k", "1,5", "--pool", "cls+mean")
    assert document["accuracy"] == {"1": 1.0, "5": 1.0}
    assert document["classes"] == list(COLOURS)
    assert (document["train_images"], document["test_images"], document["features"]) == (18, 9, 128)
    assert document["evaluated"]["kind"] == "student"
    assert document["evaluated"]["view_size"] == 32


def test_an_untrained_student_is_the_one_of_its_seed(
    capsys: pytest.CaptureFixture[str], images: Path, weights: Path
) -> None:
    arguments = ("--images", images, "--untrained", "--student", STUDENT, "--view-size", 32, "--pool", "mean")
    document = result(capsys, *arguments, "--seed", 1)
    assert document["evaluated"]["kind"] == "untrained student"
    assert document["evaluated"]["weights"] is None
    trained = result(capsys, "--images", images, "--weights", weights, "--pool", "mean")
    assert document["accuracy"] == trained["accuracy"]


def test_a_teacher_with_its_file(capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_file(timm.create_model(TEACHER, img_size=32, num_classes=3).state_dict(), path)
    document = result(
        capsys,
        "--images",
        images,
        "--teacher",
        f"timm:{TEACHER}",
        "--teacher-weights",
        path,
        "--view-size",
        32,
        "--pool",
        "mean",
        "--k",
        5,
    )
    assert document["evaluated"]["name"] == f"timm:{TEACHER}"
    assert document["accuracy"]["5"] == 1.0


def test_the_summary_for_people(capsys: pytest.CaptureFixture[str], images: Path, weights: Path) -> None:
    code, out, _ = run(capsys, "knn", "--weights", weights, "--images", images, "--pool", "mean", "--k", "3")
    assert code == 0
    assert out.splitlines() == [
        f"student test_vit ({weights})",
        "images    18 train, 9 test, 3 classes",
        "features  64 values (mean), views of 32 px",
        "k = 3     100.00% right",
    ]


def test_a_linear_probe_of_student_untrained_and_teacher(
    capsys: pytest.CaptureFixture[str], images: Path, weights: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    save_file(timm.create_model(TEACHER, img_size=32, num_classes=3).state_dict(), teacher)
    for kind, who in {
        "student": ("--weights", weights),
        "untrained student": ("--untrained", "--student", STUDENT, "--view-size", 32),
        "teacher": ("--teacher", f"timm:{TEACHER}", "--teacher-weights", teacher, "--view-size", 32),
    }.items():
        code, out, err = run(
            capsys,
            "linear",
            "--json",
            "--device",
            "cpu",
            "--images",
            images,
            *who,
            "--pool",
            "mean",
            "--epochs",
            30,
            "--base-lr",
            1,
            "--out",
            tmp_path / kind,
        )
        assert code == 0, err
        document = json.loads(out)
        assert document["evaluated"]["kind"] == kind
        assert document["accuracy"] == 1.0
        assert document["recipe"]["epochs"] == 30
        assert json.loads((tmp_path / kind / "results.json").read_text())["accuracy"] == 1.0
        assert len((tmp_path / kind / "metrics.jsonl").read_text().splitlines()) == 30


def test_the_linear_summary_for_people(capsys: pytest.CaptureFixture[str], images: Path, weights: Path) -> None:
    code, out, err = run(capsys, "linear", "--weights", weights, "--images", images, "--pool", "mean", "--base-lr", "1")
    assert code == 0
    for split in ("train", "test"):  # minutes of work for many images: a log shows them, too
        assert re.search(rf"encode {split}: 100%.* \d+/\d+ ", err)
    lines = out.splitlines()
    assert lines[2:4] == [
        "features  64 values (mean), views of 32 px",
        "probe     sgd, 100 epochs of centre views, 100 steps",
    ]
    assert lines[4].startswith("train     100.00% right, loss 0.")
    assert lines[5:] == ["test      100.00% right"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "w", "--epochs", "0"), "--epochs 0: must be at least 1"),
        (("--weights", "w", "--base-lr", "-1"), "--base-lr -1.0"),
        (("--weights", "w", "--checkpoint-seconds", "-1"), "--checkpoint-seconds -1.0"),
        (("--weights", "w", "--teacher", "dino-b16"), "found --weights and --teacher"),
        (
            ("--untrained", "--student", STUDENT, "--view-size", "32", "--epochs", "2", "--warmup-epochs", "2"),
            "--warmup-epochs 2.0: must be fewer than the 2 epochs",
        ),
        (("--untrained", "--student", STUDENT, "--view-size", "32", "--out", __file__), "is a file; --out needs"),
    ],
)
def test_bad_usage_of_linear_exits_with_2(
    capsys: pytest.CaptureFixture[str], images: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, "linear", "--images", images, *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "found none of them"),
        (("--weights", "w", "--teacher", "dino-b16"), "found --weights and --teacher"),
        (("--teacher", "dino-b16", "--untrained", "--student", "s"), "found --teacher and --untrained"),
        (("--untrained",), "--untrained needs --student NAME"),
        (("--teacher", "dino-b16", "--student", "s"), "--student goes with --weights or --untrained"),
        (("--weights", "w", "--teacher-weights", "w"), "--teacher-weights goes with --teacher"),
        (("--weights", "w", "--k", "10,0"), "--k '10,0'"),
        (("--weights", "w", "--batch-size", "0"), "--batch-size 0"),
        (("--weights", "w", "--seed", "-1"), "--seed -1"),
        (("--untrained", "--student", "resnet18"), "student resnet18 does not fit"),
        (("--teacher", "nobody"), "unknown teacher 'nobody'; known: clip-b16"),
    ],
)
def test_bad_usage_exits_with_2(
    capsys: pytest.CaptureFixture[str], images: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, "knn", "--images", images, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_another_view_size_than_the_weights_own_interpolates_positions(
    capsys: pytest.CaptureFixture[str], images: Path, weights: Path
) -> None:
    code, out, err = run(capsys, "knn", "--images", images, "--weights", weights, "--view-size", 48, "--json")
    assert code == 0, err
    assert json.loads(out)["evaluated"]["view_size"] == 48
    assert f"{weights} was trained on views of 32 px: position embeddings are interpolated to 48 px" in err


def test_the_normalisation_in_use_is_said(capsys: pytest.CaptureFixture[str], images: Path, weights: Path) -> None:
    code, out, err = run(capsys, "knn", "--images", images, "--weights", weights, "--json")
    assert (code, json.loads(out)["normalisation"]["mean"]) == (0, [0.485, 0.456, 0.406])
    said = "test_vit: pixels normalised by mean 0.485 0.456 0.406, std 0.229 0.224 0.225 (as the file records)"
    assert said in err.splitlines()
    halves = ("--mean", 0.5, 0.5, 0.5, "--std", 0.5, 0.5, 0.5)
    code, out, err = run(capsys, "knn", "--images", images, "--weights", weights, "--json", *halves)
    document = json.loads(out)
    assert document["normalisation"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert document["evaluated"]["mean"] == [0.5] * 3


def test_one_class_is_no_question(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "red").mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(tmp_path / split / "red" / "0.png")
    code, out, err = run(capsys, "knn", "--images", tmp_path, "--weights", weights)
    assert (code, out) == (2, "")
    assert "k-NN: expected at least 2 classes, found 1 (red): with one class every answer is right" in err


def test_what_probing_and_tuning_leave_can_be_evaluated_again(
    capsys: pytest.CaptureFixture[str], images: Path, weights: Path, tmp_path: Path
) -> None:
    common = ("--images", images, "--device", "cpu")
    linear = ("--weights", weights, "--epochs", 2, "--pool", "mean", "--out", tmp_path / "probed")
    finetune = ("--weights", tmp_path / "probed", "--epochs", 1, "--train-batch-size", 6, "--workers", 0)
    for measure, arguments in (
        ("linear", linear),
        ("finetune", (*finetune, "--out", tmp_path / "tuned")),  # one epoch: the warm-up's default is shorter
        ("knn", ("--weights", tmp_path / "tuned" / "model.safetensors")),
    ):
        code, out, err = run(capsys, measure, *common, *arguments, "--json")
        assert code == 0, err
        assert json.loads(out)["evaluated"]["name"] == STUDENT
    for folder in ("probed", "tuned"):
        model = timm.create_model(f"local-dir:{tmp_path / folder / 'model'}", pretrained=True)
        assert (model.num_classes, model.pretrained_cfg["label_names"]) == (3, list(COLOURS))


def test_failures_exit_with_1_and_one_sentence(
    capsys: pytest.CaptureFixture[str], images: Path, weights: Path, tmp_path: Path
) -> None:
    for arguments, message in (
        (("--images", tmp_path, "--weights", weights), "found no train/"),
        (("--images", images, "--weights", tmp_path / "none"), "found no file"),
        (("--images", images, "--weights", weights, "--student", TEACHER), "does not fit vit_tiny_patch16_224"),
    ):
        code, out, err = run(capsys, "knn", *arguments)
        assert (code, out) == (1, "")
        assert err.splitlines()[-1].startswith("error: ")
        assert message in err


def finetune_flags(images: Path, weights: Path, *others: object) -> list[str]:
    flags = [
        "finetune",
        "--images",
        images,
        "--weights",
        weights,
        "--device",
        "cpu",
        "--epochs",
        6,
        "--warmup-epochs",
        1,
        "--train-batch-size",
        6,
        "--base-lr",
        0.02,
        "--workers",
        0,
        *others,
    ]
    return [str(flag) for flag in flags]


def test_fine_tuning_a_student(capsys: pytest.CaptureFixture[str], images: Path, weights: Path, tmp_path: Path) -> None:
    flags = finetune_flags(images, weights, "--out", tmp_path / "run")
    code, out, err = run(capsys, *flags, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["method"] == "finetune"
    assert document["evaluated"]["kind"] == "student"
    assert (document["steps"], document["recipe"]["epochs"]) == (18, 6)
    assert 0 <= document["accuracy"] <= 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock") == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "model",
        "model.safetensors",
        "results.json",
        "tensorboard",
    ]
    code, out, _ = run(capsys, *flags)
    assert code == 0
    assert out.splitlines()[1:3] == [
        "images    18 train, 9 test, 3 classes",
        "tuned     6 epochs, 18 steps, views of 32 px, pool mean",
    ]
    code, _, err = run(capsys, *flags, "--mixup", "0")
    assert code == 1
    assert "belongs to another evaluation (recipe.mixup: the run has 0.8, now 0.0)" in err


@pytest.mark.parametrize("measure", ["linear", pytest.param("finetune", marks=pytest.mark.slow)])
def test_kill_9_and_run_again_gives_the_same_numbers(
    capsys: pytest.CaptureFixture[str], images: Path, weights: Path, tmp_path: Path, measure: str
) -> None:
    flags = (
        finetune_flags(images, weights)
        if measure == "finetune"
        else [
            "linear",
            "--images",
            str(images),
            "--weights",
            str(weights),
            "--device",
            "cpu",
            "--augment",
            "crop-flip",
            "--probe-batch-size",
            "6",
            "--epochs",
            "4",
        ]
    )
    flags += ["--checkpoint-seconds", "0"]
    code, _, err = run(capsys, *flags, "--out", tmp_path / "whole")
    assert code == 0, err
    script = Path(__file__).with_name("kill_evaluations.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "killed"), "2", json.dumps(flags)],
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    assert json.loads(done.stdout)[0] == -signal.SIGKILL
    code, _, err = run(capsys, *flags, "--out", tmp_path / "killed")
    assert code == 0, err
    for name in ("results.json", "model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    killed, whole = (
        [
            {**json.loads(line), "elapsed_seconds": 0, "time": 0}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("killed", "whole")
    )
    assert killed == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "w", "--out", "o", "--epochs", "0"), "--epochs 0: must be at least 1"),
        (("--weights", "w", "--out", "o", "--workers", "-1"), "--workers -1: must be at least 0"),
        (("--weights", "w", "--out", "o", "--rand-augment", "much"), "--rand-augment 'much': expected none, or timm's"),
        (("--weights", "w", "--untrained", "--student", "s", "--out", "o"), "found --weights and --untrained"),
        (("--out", "o"), "give exactly one of --weights FILE (a student) and --untrained (with --student NAME), found"),
        (("--weights", "w"), "--out"),
        (("--teacher", "dino-b16", "--out", "o"), "--teacher"),
    ],
)
def test_bad_usage_of_finetune_exits_with_2(
    capsys: pytest.CaptureFixture[str], images: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, "finetune", "--images", images, *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("measure", ["knn", "linear", "finetune"])
def test_help_is_there_without_torch(measure: str) -> None:
    program = (
        "import sys\n"
        "from lookonce.commands.evaluate_student import main\n"
        "try:\n    main([sys.argv[1], '--help'])\n"
        "except SystemExit as stopped:\n    code = stopped.code\n"
        "heavy = {'torch', 'timm', 'ray', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, measure], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--weights" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "least"), [("cls", 0.75), ("mean", 0.7), ("cls+mean", 0.75)])
def test_a_real_teacher_tells_flowers_apart(
    capsys: pytest.CaptureFixture[str], data_dir: Path, pool: str, least: float
) -> None:
    document = result(
        capsys,
        "--images",
        data_dir / "flowers",
        "--teacher",
        "deit-tiny",
        "--teacher-weights",
        data_dir / "deit_tiny_patch16_224.safetensors",
        "--pool",
        pool,
    )
    print(pool, document["accuracy"], document["train_images"], document["test_images"])
    assert min(document["accuracy"].values()) > least
