"""Token subsets as users make and use them: extraction, conversion, picture, training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.convert.conversion import convert_cache
from lookonce.cache.convert.request import ConversionRequest
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.show.picture import draw_cache
from lookonce.cache.verify.verification import verify_cache
from lookonce.cache.write.stored_patches import stored_patch_ids
from lookonce.commands.train_student import main as train_student
from lookonce.shared.errors import UsageError
from lookonce.storage_schemas.tokens import parse_token_subset

TRAIN = (
    "--student",
    "test_vit",
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--max-steps",
    "2",
    "--drop-path",
    "0",
    "--json",
)
MASKS = {"visible": ("hide-attentive", 0.75), "top:0.5": ("attentive", 0.7)}


@pytest.fixture(scope="session", params=list(MASKS))
def subset_cache(
    request: pytest.FixtureRequest, extract_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """(what --tokens was, the cache, a cache of all tokens by the same arguments), fp16, 64 px views in 16 patches."""
    folder = tmp_path_factory.mktemp("subsets")
    mask, ratio = MASKS[request.param]
    sizes = {"view_size": 64, "patch_size": 16, "precision": "fp16"}
    ended = extract_tiny(folder / "cut", tokens=request.param, mask=mask, mask_ratio=ratio, **sizes)
    assert ended.code == 0, ended.err
    ended = extract_tiny(folder / "all", **sizes)
    assert ended.code == 0, ended.err
    return request.param, folder / "cut", folder / "all"


def test_a_subset_holds_just_those_tokens_of_a_whole_extraction(subset_cache: tuple[str, Path, Path]) -> None:
    text, cut, whole = subset_cache
    mask, ratio = MASKS[text]
    few, every = CacheReader(cut), CacheReader(whole)
    rows = few.rows(0)
    keys = [str(key) for key in every.column("key", 0)]
    for seed in (0, 1):
        seeds = [seed] * len(rows)
        importance = every.read("importance", seeds, rows)
        ids = stored_patch_ids(parse_token_subset(text, mask=mask, mask_ratio=ratio), importance, keys, seed)
        tokens = np.pad(ids + 1, ((0, 0), (1, 0)))
        assert np.array_equal(few.read("patch_ids", seeds, rows), ids)
        assert np.array_equal(few.read("pixels", seeds, rows), every.read("pixels", seeds, rows, ids))
        for name in ("importance", "pixel_digest"):
            assert np.array_equal(few.read(name, seeds, rows), every.read(name, seeds, rows))
        for name in ("targets", "target_mean", "target_std"):
            assert np.array_equal(few.read(name, seeds, rows), every.read(name, seeds, rows, tokens)), name
    assert verify_cache(cut, full=True, workers=1).findings == ()


def test_cutting_a_whole_cache_gives_what_extraction_gives(
    subset_cache: tuple[str, Path, Path], tmp_path: Path, files: Callable[[Path], dict[str, str]]
) -> None:
    text, cut, whole = subset_cache
    mask, ratio = MASKS[text]
    request = ConversionRequest(tokens=parse_token_subset(text, mask=mask, mask_ratio=ratio))
    convert_cache(whole, tmp_path / "out", request)
    made, expected = files(tmp_path / "out"), files(cut)
    assert made.keys() == expected.keys()
    differing = {path for path in made if made[path] != expected[path]}
    assert all(path.startswith("receipts/") for path in differing)  # statistics are of the tokens that were seen
    assert CacheReader(tmp_path / "out").manifest == CacheReader(cut).manifest


def test_a_cut_cache_cannot_be_cut_again(subset_cache: tuple[str, Path, Path], tmp_path: Path) -> None:
    other = ConversionRequest(tokens=parse_token_subset("top:0.25", mask="attentive", mask_ratio=0.7))
    with pytest.raises(UsageError, match="contains only the token subset"):
        convert_cache(subset_cache[1], tmp_path / "out", other)
    assert not (tmp_path / "out").exists()


def test_a_picture_is_drawn_of_it(subset_cache: tuple[str, Path, Path], tmp_path: Path) -> None:
    assert draw_cache(subset_cache[1], tmp_path / "picture.png", samples=2) == 2
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_student_trains_from_it_and_the_user_is_told(
    subset_cache: tuple[str, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, cut, _ = subset_cache
    with pytest.raises(SystemExit) as ended:
        train_student(["--shards", str(cut), "--out", str(tmp_path / "run"), *TRAIN])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    result, config = json.loads(captured.out), json.loads((tmp_path / "run/config.json").read_text())
    assert np.isfinite(result["final_loss"])
    said = "masks are fixed" if text == "visible" else "masks are drawn inside them"
    assert said in result["note"]
    assert said in captured.err
    assert (config["mask"], config["mask_ratio"]) == (
        ("hide-attentive", 0.75) if text == "visible" else ("attentive", 0.7)
    )


def test_masks_and_norms_that_it_cannot_serve_are_refused(
    subset_cache: tuple[str, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, cut, _ = subset_cache
    for flags, advice in (
        (("--mask-ratio", "0.1"), "--mask-ratio"),
        (("--target-norm", "bn"), "another --target-norm"),
    ):
        with pytest.raises(SystemExit) as ended:
            train_student(["--shards", str(cut), "--out", str(tmp_path / "run"), *TRAIN, *flags])
        captured = capsys.readouterr()
        assert ended.value.code in (1, 2)
        assert advice in captured.err
        assert "Traceback" not in captured.err
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("norm", ["none", "l2"])
def test_a_visible_cache_and_a_whole_one_give_the_same_first_epoch(
    subset_cache: tuple[str, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], norm: str
) -> None:
    """The fixed masks are those of a run with seed 0 in epoch 0, so the first step's loss is the same number."""
    text, cut, whole = subset_cache
    if text != "visible":
        pytest.skip("masks inside the top patches are other masks")
    losses = []
    for root in (cut, whole):
        arguments = ["--mask", "hide-attentive", "--mask-ratio", "0.75", "--target-norm", norm, "--seeds", "0"]
        with pytest.raises(SystemExit):
            train_student(["--shards", str(root), "--out", str(tmp_path / root.name), *TRAIN, *arguments])
        losses.append(json.loads(capsys.readouterr().out)["first_loss"])
    assert losses[0] == losses[1]
