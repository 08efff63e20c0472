"""Recipes: what their heads promise can be typed, and what they say is the released recipe's."""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path

import pytest

from lookonce.commands.command import parse_arguments
from lookonce.commands.extract_features import Options as ExtractionOptions
from lookonce.commands.train_student import Options as TrainingOptions
from lookonce.commands.train_student import main, recipe_defaults
from lookonce.extract.teachers import resolve_teacher
from lookonce.train import recipes
from lookonce.train.recipes import RECIPES, recipe_config


def head(name: str) -> list[str]:
    text = import_module(f"lookonce.train.recipes.{name.replace('-', '_')}").__doc__
    assert text is not None
    return [line.strip() for line in text.splitlines()]


def command(name: str, program: str) -> list[str]:
    (line,) = (line for line in head(name) if line.startswith(f"{program} "))
    return shlex.split(line)[1:]


def read(arguments: list[str]) -> TrainingOptions:
    options = parse_arguments(
        TrainingOptions, prog="train-student", description="", arguments=arguments, defaults=recipe_defaults
    )
    assert isinstance(options, TrainingOptions)
    return options


def test_every_file_is_in_the_table() -> None:
    files = {path.stem for path in Path(recipes.__file__).parent.glob("*.py")} - {"__init__", "released"}
    assert files == {name.replace("-", "_") for name in RECIPES}


def test_a_file_name_is_as_good() -> None:
    assert recipe_config("flowers_tiny_deit_tiny", (Path("c"),), Path("r")).batch_size == 64


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_at_its_head_can_be_typed(name: str) -> None:
    training = read(command(name, "train-student")).training
    written = recipe_config(name, training.shards, training.out)
    assert training == written
    options: ExtractionOptions = parse_arguments(
        ExtractionOptions, prog="extract-features", description="", arguments=command(name, "extract-features")
    )
    extraction = options.extraction
    assert training.shards == (extraction.out,)
    resolve_teacher(extraction.teacher)
    for promise in ("Expected time: ", "Expected score: "):
        assert sum(line.startswith(promise) for line in head(name)) == 1


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("maskalign-")])
def test_the_released_recipe(name: str) -> None:
    """MaskAlign's README: 8 GPUs x 128, blr 1.5e-4, smoothl1 of whitened top5, linear head and fusion, 200 epochs."""
    config = recipe_config(name, (Path("cache"),), Path("run"))
    large = name.startswith("maskalign-l-")
    assert (config.student, config.drop_path) == (
        ("vit_large_patch16_224", 0.2) if large else ("vit_base_patch16_224", 0.1)
    )
    assert (config.epochs, config.warmup_epochs, config.batch_size) == (200, 20, 1024)
    assert (config.base_lr, config.min_lr, config.weight_decay) == (1.5e-4, 1e-5, 0.05)
    assert (config.mask, config.mask_ratio) == ("attentive", 0.7)
    assert (config.loss, config.loss_scale, config.target_norm) == ("smooth-l1", 2.0, "whiten")
    assert (config.layer_weights, config.adapter, config.mix_order) == ("top5", "linear", "mix-then-adapt")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--recipe", "maskalign-l-clip-l14", "--epochs", "3", "--student=vit_base_patch16_224"],
        ["--epochs", "3", "--student=vit_base_patch16_224", "--recipe=maskalign-l-clip-l14"],
    ],
    ids=["recipe first", "recipe last"],
)
def test_flags_go_over_the_recipe(arguments: list[str]) -> None:
    options = read([*arguments, "--shards", "cache", "--out", "run"]).training
    assert (options.epochs, options.student, options.drop_path) == (3, "vit_base_patch16_224", 0.2)


def test_an_unknown_recipe_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--recipe", "maskalign-b", "--shards", "cache", "--out", "run"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: unknown recipe 'maskalign-b' (did you mean maskalign-b-clip-b16, maskalign-b-dino-b16 or "
        "maskalign-l-clip-b16?); known: maskalign-b-clip-b16, maskalign-l-clip-b16, maskalign-l-clip-l14, "
        "maskalign-b-dino-b16, flowers-tiny-deit-tiny\n"
    )


def test_a_file_in_place_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.toml"
    own.write_text("epochs = 3")
    with pytest.raises(SystemExit) as ended:
        main(["--recipe", str(own), "--shards", "cache", "--out", "run"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --recipe {own}: is a file, expected the name of a recipe: maskalign-b-clip-b16,")
    assert said.endswith("give your own values as flags, or as a [[run]] of a --sweep file\n")


@pytest.mark.parametrize("given", [["--mean", "0.5,0.4,0.3"], ["--mean=0.5,0.4,0.3"], ["--mean", "0.5", "0.4", "0.3"]])
def test_three_values_may_be_separated_by_commas(given: list[str]) -> None:
    read_options = parse_arguments(
        ExtractionOptions,
        prog="extract-features",
        description="",
        arguments=["--teacher", "deit-tiny", "--images", "x", "--out", "y", "--std", "1,1,1", *given],
    )
    assert read_options.extraction.mean == (0.5, 0.4, 0.3)
    assert read_options.extraction.std == (1.0, 1.0, 1.0)


def test_a_recipe_without_a_name_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--shards", "cache", "--out", "run", "--recipe"])
    assert ended.value.code == 2
    assert "--recipe" in capsys.readouterr().err
