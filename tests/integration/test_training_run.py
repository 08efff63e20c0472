"""What a whole run leaves, and what it needs: the cache, and nothing of the teacher."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lookonce.train.config import TrainingConfig
from lookonce.train.loop.step_memory import activation_bytes
from lookonce.train.model.student import Student
from lookonce.train.records.metrics import read_metrics
from lookonce.train.run import train_student


def train(cache: Path, out: Path, **changes: Any) -> list[dict[str, Any]]:
    recipe: dict[str, Any] = {
        "student": "test_vit",
        "layer_weights": "top2",
        "epochs": 6,
        "batch_size": 4,
        "base_lr": 0.05,
        "log_steps": 1,
        "device": "cpu",
        "drop_path": 0.0,
    }
    train_student(TrainingConfig(shards=(cache,), out=out, **{**recipe, **changes}), show_progress=False)
    return read_metrics(out / "metrics.jsonl")


def test_a_run_leaves_what_it_promises(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    lines = train(training_cache(), run)
    assert [line["step"] for line in lines] == list(range(17))  # 66 samples, 4 a step
    assert lines[-1]["level_loss"].keys() == {"3", "4"}
    assert all(0 <= line["input_wait_share"] <= 1 and line["images_per_second"] > 0 for line in lines)
    config = json.loads((run / "config.json").read_text())
    resolved = {name: config[name] for name in ("device", "precision", "seeds", "student", "mask_ratio")}
    assert resolved == {"device": "cpu", "precision": "fp32", "seeds": [0, 1], "student": "test_vit", "mask_ratio": 0.7}
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    files = {path.name for path in run.iterdir()} - {".lock"}
    rows = (Path(__file__).parents[2] / "README.md").read_text().partition("| file | content |")[2].partition("\n\n")[0]
    assert {name for name in files if f"`{name}" not in rows} == set()
    for picture in ("alignment.png", "loss.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")


def test_timm_loads_the_student_strictly_but_for_the_head(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    train(training_cache(), tmp_path / "run")
    file = tmp_path / "run" / "student.safetensors"
    model = timm.create_model("test_vit", img_size=64)
    result = model.load_state_dict(load_file(file), strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["head.weight", "head.bias"], [])
    timm.create_model("test_vit", img_size=64, num_classes=0).load_state_dict(load_file(file), strict=True)
    with safe_open(file, "pt") as handle:
        metadata = handle.metadata()
    told = json.loads(metadata.pop("pretrained_cfg"))
    assert (told["architecture"], told["input_size"], told["mean"]) == ("test_vit", [3, 64, 64], [0.485, 0.456, 0.406])
    assert metadata == {"format": "pt", "student": "test_vit", "view_size": "64", "patch_size": "16"}
    untrained = Student("test_vit", img_size=64).export_state()
    assert not torch.equal(model.blocks[0].attn.qkv.weight, untrained["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"mix_order": "mix-then-adapt", "adapter": "mlp2", "loss": "l2", "target_norm": "l2"},
        {"mask": "hide-attentive", "mask_ratio": 0.0, "target_norm": "none", "loss": "l1"},
        {"layer_weights": "out", "adapter": "norm-linear", "check": "never", "workers": 1},
        {"batch_size": 100, "epochs": 100, "base_lr": 0.005},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_way_of_training_runs_and_learns(
    training_cache: Callable[..., Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    lines = train(training_cache(precision="fp16"), tmp_path / "run", **{"epochs": 12, **changes})
    losses = [line["loss"] for line in lines]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns of its own deprecations
def test_compiled_training_gives_the_same_losses(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    cache = training_cache()
    plain = train(cache, tmp_path / "plain", target_norm="bn")
    compiled = train(cache, tmp_path / "compiled", target_norm="bn", compile=True)
    assert [line["loss"] for line in compiled] == pytest.approx([line["loss"] for line in plain], rel=1e-4)


@pytest.mark.slow
def test_the_loss_falls_on_real_photographs(data_dir: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    extract = [
        "--teacher",
        "timm:deit_tiny_patch16_224",
        "--teacher-weights",
        data_dir / "deit_tiny_patch16_224.safetensors",
        "--images",
        data_dir / "photos",
        "--out",
        cache,
        "--seeds=0-1",
        "--precision=int8",
        "--executor=inline",
    ]
    command("extract_features", *extract)
    lines = train(cache, tmp_path / "run", student="test_vit", layer_weights="top5", epochs=20, batch_size=32)
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]


TEACHERLESS = """
import socket, sys
def refuse(*arguments): raise OSError("no network here")
socket.socket.connect = socket.create_connection = refuse
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
from lookonce.commands.train_student import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    assert left.code == 0, left.code
import lookonce.train.evaluation.knn
loaded = {"ray", "open_clip", "lookonce.extract"} & set(sys.modules)
assert not loaded, loaded
print("OPENED", *sorted(set(opened)), sep="\\n")
"""


def test_nothing_of_the_teacher_is_opened_or_imported(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache, run = training_cache(), tmp_path / "run"
    images = tmp_path / "images"
    images.mkdir()  # where a teacher's files and photographs would be
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            TEACHERLESS,
            "--shards",
            cache,
            "--out",
            run,
            "--student=test_vit",
            "--layer-weights=top2",
            "--epochs=2",
            "--batch-size=4",
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (run / "student.safetensors").is_file()
    opened = done.stdout.split("OPENED\n")[1].splitlines()
    ours = {Path(name) for name in opened if name.startswith(str(tmp_path))} - {tmp_path}  # where --out will be
    assert cache / "manifest.json" in ours
    assert not {path for path in ours if not path.is_relative_to(cache) and not path.is_relative_to(run)}
    assert not [name for name in opened if name.endswith((".safetensors", ".pt", ".pth")) and str(run) not in name]


def test_what_is_begun_is_told_and_what_is_odd_about_it(
    training_cache: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    recipe: dict[str, Any] = {"student": "test_vit", "layer_weights": "top2", "device": "cpu", "epochs": 4}
    config = TrainingConfig(shards=(training_cache(),), out=tmp_path / "run", batch_size=22, max_steps=1, **recipe)
    train_student(config)
    said = capsys.readouterr().err
    assert "test_vit on cpu (fp32): 11 images, 2 seeds, 2 steps of 22 views; pixels normalised by" in said
    assert "note: --batch-size 22 is more than the 11 images" in said
    assert "memory" not in said
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    train_student(replace(config, max_steps=None))
    said = capsys.readouterr().err
    assert "2 steps of 22 views, from step 1; pixels" in said
    assert "--accumulate 22 makes the same steps of smaller parts" in said
    train_student(replace(config, max_steps=None))  # nothing left to do
    assert "memory" not in capsys.readouterr().err


def test_a_single_step_tells_the_views_it_has_and_a_loss_that_rose_is_told(
    training_cache: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe: dict[str, Any] = {"student": "test_vit", "layer_weights": "top2", "device": "cpu", "log_steps": 1}
    cache = training_cache(seeds=(0,))
    summary = train_student(TrainingConfig(shards=(cache,), out=tmp_path / "one", epochs=1, **recipe))
    assert "11 images, 1 seed, 1 step of 11 views;" in capsys.readouterr().err
    assert summary.note is not None
    assert "did not fall" not in summary.note
    wild = {"base_lr": 100.0, "epochs": 4, "batch_size": 4, "warmup_epochs": 0.0, **recipe}
    summary = train_student(TrainingConfig(shards=(cache,), out=tmp_path / "wild", **wild), show_progress=False)
    assert summary.final_loss is not None
    assert summary.first_loss is not None
    assert summary.final_loss > summary.first_loss
    assert summary.note is not None
    assert "the loss did not fall" in summary.note
    assert "a lower --base-lr than 100" in summary.note


def test_activations_are_those_that_a_forward_keeps() -> None:
    kept = [activation_bytes(Student("test_vit", img_size=64), visible) for visible in (4, 8, 16)]
    assert kept[0] < kept[1] < kept[2]
    blocks, tokens, width = 6, 17, 64
    assert kept[2] > blocks * tokens * width * 4 * 8  # a block keeps qkv, four wide in the MLP, and more
    assert kept[2] < blocks * tokens * width * 4 * 40
    less = activation_bytes(Student("test_vit", img_size=64, activation_checkpointing=True), 16)
    assert less < kept[2] / 3
    assert activation_bytes(Student("test_vit", img_size=64), 16, half=True) < kept[2]


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, lookonce.commands.train_student; assert not {'torch', 'timm', 'zarr'} & set(sys.modules)"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.perf_counter() - started < 20  # 0.6 s alone; other work on the machine may slow it


def command(module: str, *arguments: object) -> None:
    """One of our commands in a process of its own."""
    code = f"from lookonce.commands.{module} import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, timeout=250, capture_output=True)
