"""Fine-tuning: timm's parts wired as the recipe says, and exact to resume."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lookonce.shared import stopping
from lookonce.shared.errors import Interrupted, MachineError, UnreadableImageError, UsageError
from lookonce.shared.normalisation import IMAGENET
from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder
from lookonce.train.evaluation.finetune import fine_tuning as finetune
from lookonce.train.evaluation.finetune.fine_tuning import finetune_student
from lookonce.train.evaluation.finetune.finetune_config import FinetuneConfig
from lookonce.train.evaluation.finetune.finetune_model import (
    FinetunePool,
    classifier,
    classifier_arguments,
    layer_decay_optimizer,
)
from lookonce.train.evaluation.finetune.seeded import seeded_generators
from lookonce.train.evaluation.finetune.training_views import TrainingViews, training_batches
from lookonce.train.evaluation.fit_schedule import FitSchedule
from lookonce.train.evaluation.labelled_images import LabelledImages, open_labelled_images
from lookonce.train.loop.interrupts import DeferredInterrupts
from lookonce.train.model.student import Student
from lookonce.train.model.student_file import save_student

NAME, SIZE = "test_vit", 32
CPU = torch.device("cpu")
SHORT = FinetuneConfig(epochs=3, warmup_epochs=1, train_batch_size=6, base_lr=0.1, drop_path=0.3)
"""15 images: steps of 5, each with one image left out, as pairs are mixed."""


class Killed(BaseException):
    """Like kill -9: nothing of ours catches it."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """A model this small is slower on several, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise that differ in brightness: 15 images to train, 9 to test."""
    folder = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 3)):
        for number, name in enumerate("abc"):
            (folder / split / name).mkdir(parents=True)
            for image in range(count):
                pixels = generator.normal(60 + 60 * number, 25, (44, 36, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{image}.png")
    return folder


@pytest.fixture
def images(folder: Path) -> LabelledImages:
    return open_labelled_images(folder)


@pytest.fixture(scope="module")
def student() -> Student:
    student = Student(NAME, img_size=SIZE, seed=1)
    torch.nn.init.normal_(student.model.norm.weight)
    return student


def tune(student: Student, images: LabelledImages, out: Path, config: FinetuneConfig = SHORT, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"workers": 0, "batch_size": 4, "checkpoint_seconds": 0, **changes}
    return finetune_student(StudentEncoder(student, pool="mean"), images, config, out=out, **arguments)


# --- the model


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_the_classifier_sees_what_the_student_does(student: Student, pool: FinetunePool) -> None:
    """Its features before norm and head are the student's last block."""
    model = classifier(student, 3, pool, drop_path=0.5, seed=0).eval()
    views = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8))
    pixels = (views.float() / 255 - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)
    kept: list[Tensor] = []
    model.blocks[-1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))  # type: ignore[index, union-attr]
    with torch.inference_mode():
        scores = model(pixels.permute(0, 3, 1, 2))
        patches = views.reshape(2, 2, 16, 2, 16, 3).permute(0, 1, 3, 2, 4, 5).reshape(2, 4, -1).contiguous()
        tokens = student.eval()(patches, torch.arange(4).expand(2, -1))[-1]
    torch.testing.assert_close(kept[0], tokens, rtol=1e-4, atol=1e-5)
    state = model.state_dict()
    if pool == "mean":  # a new norm after averaging
        pooled = torch.nn.functional.layer_norm(tokens[:, 1:].mean(1), (student.dim,), eps=1e-6)
        assert "norm.weight" not in state
    else:  # the student's own norm
        weight, bias = student.model.norm.weight, student.model.norm.bias
        pooled = torch.nn.functional.layer_norm(tokens[:, 0], (student.dim,), weight, bias, eps=1e-6)
    expected = pooled @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-7)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_head_is_the_seeds_and_small(student: Student) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (
        classifier(student, 3, "mean", drop_path=0.0, seed=seed).state_dict()["head.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 1e-5 < one.std().item() < 3e-5


def test_stochastic_depth_grows_to_the_last_block(student: Student) -> None:
    model = classifier(student, 3, "mean", drop_path=0.4, seed=0)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]  # type: ignore[union-attr]
    np.testing.assert_allclose(rates, np.linspace(0, 0.4, len(rates)), atol=1e-7)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_learning_rates_by_layer(student: Student, pool: FinetunePool) -> None:
    """MAE's table by parameter name: embedding 0, block i is i + 1, the head last; decay on matrices alone."""
    model = classifier(student, 3, pool, drop_path=0.0, seed=0)
    config = FinetuneConfig(layer_decay=0.5, weight_decay=0.2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    depth = student.depth

    def layer(name: str) -> int:
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        if name.startswith("norm."):  # timm counts the final norm to the last block
            return depth
        return 0 if name.startswith(("cls_token", "pos_embed", "patch_embed")) else depth + 1

    seen = {}
    for group in layer_decay_optimizer(model, config).param_groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = (group["lr_scale"], group["weight_decay"])
    expected = {
        name: (
            0.5 ** (depth + 1 - layer(name)),
            0.0 if parameter.ndim == 1 or name in ("cls_token", "pos_embed") else 0.2,
        )
        for name, parameter in model.named_parameters()
    }
    assert seen == expected


# --- augmentation


def test_seeded_generators_are_functions_of_the_purpose_and_put_back() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    outside = draw()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    with seeded_generators("a", 1):
        one = draw()
    with seeded_generators("a", 2):
        other = draw()
    again = []
    with contextlib.suppress(ValueError), seeded_generators("a", 1):
        again.append(draw())
        raise ValueError
    assert again == [one]
    assert len({*one, *other, *outside}) == 9
    assert draw() == outside


def test_a_view_is_a_function_of_seed_epoch_and_key(images: LabelledImages) -> None:
    views = TrainingViews(images.train, SIZE, SHORT)

    def view(place: tuple[int, int], of: TrainingViews = views) -> Tensor:
        made = of[place]
        assert isinstance(made, tuple)
        assert made[0].shape == (3, SIZE, SIZE)
        assert made[1] == images.train.labels[place[1]]
        return made[0]

    assert torch.equal(view((0, 4)), view((0, 4)))
    assert not torch.equal(view((0, 4)), view((1, 4)))
    assert not torch.equal(view((0, 4)), view((0, 4), TrainingViews(images.train, SIZE, FinetuneConfig(seed=1))))


def test_each_augmentation_can_be_left_out(images: LabelledImages) -> None:
    """Without RandAugment and erasing what is left is crop and flip: no value outside of the image's, resized."""

    def kinds(config: FinetuneConfig) -> str:
        return repr(TrainingViews(images.train, SIZE, config).transform)

    assert {"RandAugment", "RandomErasing"} <= {
        word for word in ("RandAugment", "RandomErasing") if word in kinds(SHORT)
    }
    assert "p=0.25, mode=pixel" in kinds(SHORT)
    bare = kinds(FinetuneConfig(rand_augment="none", random_erasing=0.0))
    assert "RandAugment" not in bare
    assert "RandomErasing" not in bare
    assert "ColorJitter" not in bare
    assert "RandomHorizontalFlip(p=0.5)" in bare
    assert "scale=(0.08, 1.0)" in bare


def test_full_magnitude_is_no_error(images: LabelledImages) -> None:
    """Pillow 13 refuses to keep 0 bits, which timm asks for whenever a magnitude comes to 10."""
    views = TrainingViews(images.train, SIZE, FinetuneConfig(rand_augment="rand-m10-inc1"))
    (augment,) = (step for step in views.transform.transforms if hasattr(step, "ops"))
    (posterize,) = (operation for operation in augment.ops if operation.name == "PosterizeIncreasing")
    posterize.prob = 1.0
    image = Image.new("RGB", (4, 4), (200, 100, 50))
    assert posterize(image).getcolors() == [(16, (0, 0, 0))]
    posterize.magnitude = 5  # 2 bits
    assert posterize(image).getcolors() == [(16, (192, 64, 0))]


SCHEDULE = FitSchedule(images=15, batch_size=6, epochs=2, warmup_epochs=1, base_lr=1.0)


def batches(
    images: LabelledImages, first: int = 0, *, even: bool = True, workers: int = 0
) -> list[tuple[Tensor, Tensor]]:
    views = TrainingViews(images.train, SIZE, SHORT)
    return list(training_batches(views, SCHEDULE, first, even=even, workers=workers, device=CPU))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_batches_do_not_depend_on_workers_nor_on_where_a_run_was_resumed(images: LabelledImages) -> None:
    torch.manual_seed(5)
    whole = batches(images)
    torch.manual_seed(6)
    assert [len(labels) for _, labels in whole] == [4] * 6
    for other in (batches(images, workers=2), batches(images, 2)):
        for (pixels, labels), (expected_pixels, expected_labels) in zip(reversed(other), reversed(whole), strict=False):
            assert torch.equal(pixels, expected_pixels)
            assert torch.equal(labels, expected_labels)
    assert len(batches(images, 2)) == 4


def test_without_mixing_no_image_sits_out(images: LabelledImages) -> None:
    assert [len(labels) for _, labels in batches(images, even=False)] == [5] * 6


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named(images: LabelledImages, folder: Path, tmp_path: Path, workers: int) -> None:
    bad = tmp_path / "images"
    for path in folder.rglob("*.png"):
        target = bad / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"no image" if path.match("train/b/2.png") else path.read_bytes())
    with pytest.raises(UnreadableImageError, match=r"^train/b/2\.png: not a readable image [^\n]*$"):
        batches(open_labelled_images(bad), even=False, workers=workers)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_dead_worker_is_a_sentence(images: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_views: TrainingViews, _place: object) -> None:
        os._exit(9)

    monkeypatch.setattr(TrainingViews, "__getitem__", die)
    with pytest.raises(MachineError, match=r"a process that prepares images was killed.* fewer --workers"):
        batches(images, workers=1)


# --- the run


def test_it_learns(student: Student, images: LabelledImages, tmp_path: Path) -> None:
    config = FinetuneConfig(
        epochs=30,
        warmup_epochs=2,
        train_batch_size=15,
        base_lr=0.05,
        drop_path=0.0,
        mixup=0,
        cutmix=0,
        rand_augment="none",
        random_erasing=0,
        layer_decay=0.9,
        label_smoothing=0.0,
    )
    result = tune(student, images, tmp_path / "run", config, checkpoint_seconds=1e9)
    assert result.accuracy == 1.0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 31))
    assert lines[0]["loss"] == pytest.approx(np.log(3), abs=1e-3)
    assert lines[-1]["loss"] < 0.3
    assert lines[-1]["accuracy"] == 1.0


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_the_tuned_model_is_timms(student: Student, images: LabelledImages, tmp_path: Path, pool: FinetunePool) -> None:
    result = tune(student, images, tmp_path / "run", pool=pool)
    model = timm.create_model(**result.files["timm"]).eval()
    model.load_state_dict(load_file(tmp_path / "run/model.safetensors"))
    views = torch.from_numpy(np.concatenate(list(images.test.batches(SIZE, 9))))
    pixels = (views.float() / 255 - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)
    with torch.inference_mode():
        predicted = model(pixels.permute(0, 3, 1, 2)).argmax(1)
    right = (predicted == torch.from_numpy(images.test.labels)).float().mean().item()
    assert right == pytest.approx(result.accuracy)
    assert result.evaluated["pool"] == pool
    fresh = classifier(student, 3, pool, drop_path=0.0, seed=0).state_dict()
    assert not torch.equal(model.state_dict()["pos_embed"], fresh["pos_embed"])


def dying(at: int, forward: Callable[..., Any]) -> Callable[..., Any]:
    def die(self: Any, step: int, batch: Any) -> Any:
        if step == at:
            raise Killed
        return forward(self, step, batch)

    return die


def test_killed_before_any_step_and_run_again_gives_the_same_to_the_last_bit(
    student: Student, images: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(out: Path) -> dict[str, Any]:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        lines = [{name: line[name] for name in line if name not in ("time", "elapsed_seconds")} for line in lines]
        files = {name: (out / name).read_bytes() for name in ("results.json", "model.safetensors")}
        return {"metrics.jsonl": lines, **files}

    expected = tune(student, images, tmp_path / "whole")
    forward = finetune._Finetuning.forward
    for step in (1, 4, 8):
        out = tmp_path / f"step-{step}"
        with monkeypatch.context() as patched:
            patched.setattr(finetune._Finetuning, "forward", dying(step, forward))
            with pytest.raises(Killed):
                tune(student, images, out)
        torch.manual_seed(step)
        assert tune(student, images, out).stored() == expected.stored()
        assert content(out) == content(tmp_path / "whole")


def test_targets_are_mixed_and_smoothed_by_timm(
    student: Student, images: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[Tensor] = []
    cross_entropy = torch.nn.functional.cross_entropy

    def noting(scores: Tensor, target: Tensor, **others: float) -> Tensor:
        targets.append(target)
        assert others == {"label_smoothing": 0.0}
        return cross_entropy(scores, target, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", noting)
    tune(student, images, tmp_path / "run")
    assert len(targets) == 9
    for target in targets:
        torch.testing.assert_close(target.sum(1), torch.ones(4))
        assert target.min().item() >= 0.1 / 3 - 1e-6
    assert any(((target > 0.1).sum(1) == 2).any() for target in targets)


def test_a_finished_run_is_told_again(student: Student, images: LabelledImages, tmp_path: Path) -> None:
    first = tune(student, images, tmp_path / "run")
    time = (tmp_path / "run/model.safetensors").stat().st_mtime_ns
    assert tune(student, images, tmp_path / "run", batch_size=3) == first
    assert (tmp_path / "run/model.safetensors").stat().st_mtime_ns == time


def test_pairs_need_two_images_a_step(student: Student, images: LabelledImages, folder: Path, tmp_path: Path) -> None:
    three = LabelledImages(folder=folder, train=images.train.part(0, 3), test=images.test)
    with pytest.raises(
        UsageError, match=r"--mixup and --cutmix mix pairs, but 3 training images in steps of at most 2"
    ):
        tune(student, three, tmp_path / "run", FinetuneConfig(train_batch_size=2))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": 0}, "--epochs 0: must be at least 1"),
        ({"train_batch_size": 1}, "--train-batch-size 1: must be at least 2 with"),
        ({"train_batch_size": 0, "mixup": 0, "cutmix": 0}, "--train-batch-size 0"),
        ({"base_lr": float("nan")}, "--base-lr nan"),
        ({"mixup": -0.1}, r"--mixup -0\.1"),
        ({"drop_path": 1.0}, r"--drop-path 1\.0: must be at least 0 and below 1"),
        ({"label_smoothing": -0.1}, r"--label-smoothing -0\.1"),
        ({"random_erasing": 1.1}, r"--random-erasing 1\.1: must be at least 0 and at most 1"),
        ({"layer_decay": 0.0}, r"--layer-decay 0\.0: must be above 0 and at most 1"),
        ({"epochs": 5, "warmup_epochs": 5}, r"--warmup-epochs 5: must be fewer than the 5 epochs"),
        ({"rand_augment": "rand-x3"}, "--rand-augment 'rand-x3': expected none, or timm's form"),
        ({"rand_augment": "rand-p.5"}, r"--rand-augment 'rand-p\.5'"),  # timm takes the '.' for a part of the name
        ({"rand_augment": "augmix-m5"}, "--rand-augment 'augmix-m5'"),
        ({"rand_augment": "rand-m9.5"}, r"--rand-augment 'rand-m9\.5'"),
    ],
)
def test_values_out_of_range_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FinetuneConfig(**flags)


@pytest.mark.parametrize(
    "text", ["none", "rand-m9-mstd0.5-inc1", "rand-m5-n3-p0.7-mmax12-tweights", "rand", "rand-p0", "rand-p1.0-t3a"]
)
def test_what_is_accepted_of_rand_augment_is_what_timm_takes(images: LabelledImages, text: str) -> None:
    views = TrainingViews(images.train, SIZE, FinetuneConfig(rand_augment=text))
    assert isinstance(views[(0, 0)], tuple)


def test_the_defaults_are_the_released_recipe_for_vit_b() -> None:
    assert FinetuneConfig().document() == {
        "epochs": 100,
        "warmup_epochs": 5.0,
        "train_batch_size": 1024,
        "base_lr": 3e-4,
        "min_lr": 1e-6,
        "weight_decay": 0.05,
        "layer_decay": 0.55,
        "drop_path": 0.2,
        "mixup": 0.8,
        "cutmix": 1.0,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "label_smoothing": 0.1,
        "precision": "auto",
        "seed": 0,
    }


def test_the_arguments_name_the_pooling(student: Student) -> None:
    assert classifier_arguments(student, 3, "mean") == {
        "model_name": NAME,
        "img_size": SIZE,
        "num_classes": 3,
        "global_pool": "avg",
    }


SMALL_SHARED_MEMORY = "mount -t tmpfs -o size={size} none /dev/shm && exec {python} -c 'from lookonce.commands.evaluate_student import main; main()' {arguments}"  # noqa: E501


# too small for batches; for semaphores, which fails earlier and is slow with the run that the advice leads to
@pytest.mark.parametrize("size", ["160k", pytest.param("8k", marks=pytest.mark.slow)])
def test_shared_memory_that_is_too_small_is_a_sentence(
    student: Student, folder: Path, tmp_path: Path, size: str
) -> None:
    """A worker that cannot hand over what it made lives on; whoever waits for it notices all the same."""
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/dev/shm"], capture_output=True).returncode:
        pytest.skip("this user may not mount a small /dev/shm")
    save_student(student, tmp_path / "student.safetensors")
    arguments = [
        "finetune",
        f"--weights={tmp_path / 'student.safetensors'}",
        f"--images={folder}",
        "--device=cpu",
        "--train-batch-size=6",
        "--epochs=2",
        "--warmup-epochs=0",
    ]
    small = SMALL_SHARED_MEMORY.format(
        size=size, python=sys.executable, arguments=shlex.join([*arguments, f"--out={tmp_path / 'run'}"])
    )
    ended = subprocess.run(["unshare", "-m", "sh", "-c", small], capture_output=True, text=True, timeout=300)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert (ended.returncode, len(errors)) == (1, 1), ended.stderr
    for part in ("shared memory is too small", "/dev/shm has", "--workers 0", "--shm-size"):
        assert part in errors[0]
    if size == "160k":
        return
    small = small.replace("finetune", "finetune --workers=0", 1)
    ended = subprocess.run(["unshare", "-m", "sh", "-c", small], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr


def test_a_signal_ends_the_wait_for_a_worker_that_hangs(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingViews, "__getitem__", lambda *_: time.sleep(100))
    monkeypatch.setattr(stopping, "PATIENCE", 0.5)
    schedule = FitSchedule(images=15, batch_size=5, epochs=1, warmup_epochs=0, base_lr=1, min_lr=0, seed=0)
    views = TrainingViews(images.train, SIZE, SHORT)
    batches = training_batches(views, schedule, 0, even=False, workers=1, device=CPU)
    with DeferredInterrupts():
        threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGTERM]).start()
        with pytest.raises(Interrupted):
            next(batches)
    batches.close()
