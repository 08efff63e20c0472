"""What a user has typed is obeyed, told of or refused; a URL never becomes a folder of that name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lookonce.extract.config import ExtractionConfig
from lookonce.shared.errors import UsageError
from lookonce.train.config import TrainingConfig

EXTRACT = "extract_features --teacher deit-tiny --images photos --out cache"
TRAIN = "train_student --shards cache --out run"
KNN = "evaluate_student knn --weights s.safetensors --images photos"
LINEAR = "evaluate_student linear --weights s.safetensors --images photos"
FINETUNE = "evaluate_student finetune --weights s.safetensors --images photos --out run"


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], str]:
    """The sentence with which a command is refused before anything is done."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        command, *arguments = line.split()
        with pytest.raises(SystemExit) as left:
            import_module(f"lookonce.commands.{command}").main(arguments)
        said = capsys.readouterr()
        assert (left.value.code, said.out) == (2, ""), said
        assert not list(tmp_path.iterdir()), "nothing was made"
        error = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert len(error) == 1, said.err
        return error[0]

    return run


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        (f"{EXTRACT} --out s3://bucket/cache", "--out"),
        (f"{EXTRACT} --images s3://bucket/photos", "--images"),
        (f"{EXTRACT} --reuse gs://bucket/cache", "--reuse"),
        (f"{EXTRACT} --teacher-weights https://host/model.pt", "--teacher-weights"),
        (f"{TRAIN} --shards cache abfss://bucket/other", "--shards"),
        (f"{TRAIN} --out abfss://run", "--out"),
        (f"{TRAIN} --resume s3://bucket/step-000000001.pt", "--resume"),
        (f"{TRAIN} --images s3://bucket/photos", "--images"),
        (f"{TRAIN} --sweep s3://bucket/runs.toml", "--sweep"),
        (f"{KNN} --weights s3://bucket/student.safetensors", "--weights"),
        (f"{KNN} --images s3://bucket/photos", "--images"),
        (f"{FINETUNE} --out s3://bucket/run", "--out"),
        (f"{LINEAR} --out hdfs://host/run", "--out"),
        ("feature_cache convert s3://bucket/cache new", "CACHE"),
        ("feature_cache convert cache s3://bucket/new", "OUT"),
        ("feature_cache show cache --picture s3://bucket/views.png", "--picture"),
        ("feature_cache push s3://bucket/cache s3://bucket/other", "CACHE"),
        ("feature_cache pull cache s3://bucket/other", "OUT"),
        ("feature_cache drift s3://bucket/cache", "CACHE"),
        ("feature_cache fidelity cache --plot s3://bucket/plot.png", "--plot"),
        ("feature_cache plan --teacher deit-tiny --images photos --out s3://bucket/cache", "--out"),
    ],
)
def test_urls_are_refused_wherever_a_path_is_taken(refused: Callable[[str], str], line: str, flag: str) -> None:
    url = next(word for word in line.split() if "://" in word)
    assert refused(line).startswith(f"error: {flag} {url}: is a URL")


def test_of_a_file_url_the_path_is_named(refused: Callable[[str], str]) -> None:
    for url in ("file:///data/cache", "file://localhost/data/cache"):
        assert refused(f"{EXTRACT} --out {url}").endswith("is a URL; give the path alone: /data/cache")
    assert "--images hf:NAME" in refused(f"{EXTRACT} --images hf://datasets/x/y")


def test_copying_a_cache_is_advised(refused: Callable[[str], str]) -> None:
    assert refused(f"{EXTRACT} --out s3://b/x").endswith(
        "write to a folder; a cache then goes there by feature-cache push FOLDER s3://b/x"
    )
    for line in (f"{EXTRACT} --reuse gs://b/x", "feature_cache drift gs://b/x"):
        assert refused(line).endswith("copy the cache first: feature-cache pull gs://b/x FOLDER")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("push cache hf://datasets/me/flowers", "hf upload me/flowers cache . --repo-type dataset --exclude .lock"),
        ("push cache https://host/x", "a web server can only be read; expected s3://, gs:// or az://"),
        ("push cache caches/other", "URL caches/other: expected s3://BUCKET/PATH"),
        ("push cache s3:///x", "found no bucket"),
        ("pull https://host/x?sig=1 out", "without user, '?' and '#'"),
        ("pull hf://me/flowers out", "expected hf://datasets/OWNER/NAME[@REVISION][/PATH]"),
        ("pull s3://b/../x out", "'.' and '..' have no meaning"),
        ("pull s3://b/x out --seeds 3-1", "the range 3-1 runs backwards"),
        ("pull s3://b/x out --workers 0", "--workers 0: must be at least 1"),
        ("push cache s3://b/x --patience 0", "--patience 0.0: must be above 0"),
        ("verify ftp://host/x", "CACHE ftp://host/x: expected s3://BUCKET/PATH"),
        ("show s3://b/x --picture p.png", "feature-cache pull s3://b/x FOLDER, then draw"),
    ],
)
def test_urls_of_caches(refused: Callable[[str], str], line: str, sentence: str) -> None:
    assert sentence in refused(f"feature_cache {line}")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--shards s3:///x", "--shards s3:///x: found no bucket"),
        ("--shards hf://me/x", "--shards hf://me/x: expected hf://datasets/OWNER/NAME[@REVISION][/PATH]"),
        ("--cache-dir objects", "--cache-dir objects has no effect here: it goes with a URL in --shards"),
        ("--cache-limit 2GB", "--cache-limit 2GB has no effect here"),
        ("--patience 9", "--patience 9.0 has no effect here"),
        ("--shards s3://b/x --cache-limit many", "--cache-limit many: expected a number of bytes above 0, such as"),
        ("--shards s3://b/x --cache-limit 0GB", "--cache-limit 0GB: expected a number of bytes above 0"),
        ("--shards s3://b/x --cache-dir s3://b/y", "--cache-dir s3://b/y: is a URL"),
    ],
)
def test_flags_of_caches_at_urls(refused: Callable[[str], str], flags: str, sentence: str) -> None:
    assert sentence in refused(f"{TRAIN} {flags}")


def test_the_urls_of_shards_stay_urls() -> None:
    shards = TrainingConfig(shards=("s3://b/x", Path("https://h/x"), "caches/c:/x"), out=Path("run")).shards
    assert shards == ("s3://b/x", "https://h/x", Path("caches/c:/x"))


def test_urls_are_refused_from_python_too() -> None:
    with pytest.raises(UsageError, match="--out s3://bucket/run: is a URL"):
        TrainingConfig(shards=(Path("cache"),), out=Path("s3://bucket/run"))
    with pytest.raises(UsageError, match="--out s3://bucket/run: is a URL"):
        ExtractionConfig(teacher="deit-tiny", images="photos", out="s3://bucket/run")  # type: ignore[arg-type]


def test_what_only_looks_like_a_url_is_taken() -> None:
    for name in ("a:b/cache", "c:/cache", "12:30/run", "hf:cifar10:train"):
        assert TrainingConfig(shards=(Path("cache"),), out=Path("run"), images=name).images == name


@pytest.mark.parametrize(
    ("line", "given", "with_"),
    [
        (f"{EXTRACT} --executor inline --workers 3", "--workers 3", "--executor ray"),
        (f"{EXTRACT} --executor inline --ray-address auto", "--ray-address auto", "--executor ray"),
        (f"{EXTRACT} --executor inline --stall-timeout 5", "--stall-timeout 5.0", "--executor ray"),
        (f"{EXTRACT} --mask-ratio 0.5", "--mask-ratio 0.5", "--tokens visible"),
        (f"{EXTRACT} --tokens top:0.5 --mask random", "--mask random", "--tokens visible"),
        (f"{EXTRACT} --precision fp16 --calibration-views 9", "--calibration-views 9", "a calibrated --precision"),
        ("extract_features --teacher deit-tiny --reuse c --out d --relist", "--relist", "--images"),
        (f"{TRAIN} --shuffle-shards 4", "--shuffle-shards 4", "--shuffle block"),
        (f"{TRAIN} --num-nodes 2", "--num-nodes 2", "--launcher ray"),
        (f"{TRAIN} --ray-address auto", "--ray-address auto", "--launcher ray"),
        (f"{TRAIN} --max-restarts 1", "--max-restarts 1", "--launcher ray"),
        (f"{KNN} --seed 3", "--seed 3", "--untrained"),
        (f"{KNN} --patch-size 8", "--patch-size 8", "--teacher"),
        (f"{LINEAR} --checkpoint-seconds 5", "--checkpoint-seconds 5.0", "--out"),
        ("feature_cache convert cache new --mask-ratio 0.5", "--mask-ratio 0.5", "--tokens visible"),
        ("feature_cache show cache --samples 3", "--samples 3", "--picture"),
        ("feature_cache fidelity cache --device cpu", "--device cpu", "--teacher"),
    ],
)
def test_flags_without_effect_are_refused(refused: Callable[[str], str], line: str, given: str, with_: str) -> None:
    assert refused(line).startswith(f"error: {given} has no effect here: it goes with {with_}")


@pytest.mark.parametrize(
    "given",
    [
        {"executor": "inline"},
        {"executor": "ray", "workers": 3},
        {"tokens": "visible", "mask_ratio": 0.5},
        {"precision": "int4", "calibration_views": 9},
    ],
)
def test_flags_with_effect_are_taken(given: dict[str, Any]) -> None:
    ExtractionConfig(teacher="deit-tiny", images="photos", out=Path("cache"), **given)
