"""extract-features --config: a TOML file of flags, and the file that --print-config writes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lookonce.commands.cache_commands.plan import PLAN
from lookonce.commands.config_file import config_text, with_config
from lookonce.commands.extract_features import Options, main
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.errors import UsageError

FILE = """
teacher = "deit-tiny"
images = "flowers"
out = "cache"
seeds = [0, 1, 5]
layers = "top3"
batch-size = 8
stall_timeout = 5
relist = true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "extraction.toml"
    path.write_text(FILE)
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--print-config"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    return tomllib.loads(out)


def test_the_file_is_read_and_flags_go_over_it(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    found = printed(capsys, "--config", file, "--batch-size", 4, "--out", "other")
    named = ("teacher", "images", "out", "seeds", "layers", "batch_size", "stall_timeout", "relist", "precision")
    assert [found[name] for name in named] == ["deit-tiny", "flowers", "other", "0,1,5", "top3", 4, 5.0, True, "int8"]
    assert "teacher_weights" not in found


def test_what_is_printed_is_such_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, file: Path) -> None:
    config = ExtractionConfig(
        teacher="deit-tiny", images='quote " and ü', out=tmp_path, limit=3, stall_timeout=float("inf")
    )
    file.write_text(config_text(config))
    assert ExtractionConfig(**printed(capsys, "--config", file)) == config  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('techer = "a"', "'techer' is no option of extract-features (did you mean teacher"),
        ('config = "a"', "'config' is no option"),
        ('batch_size = "8"', "batch_size: expected a whole number, found '8'"),
        ("batch_size = true", "batch_size: expected a whole number, found True"),
        ("stall_timeout = []", "stall_timeout: expected a number, found []"),
        ("teacher = false", "teacher: expected text, or a list, found False"),
        ("teacher_weights = 1", "teacher_weights: expected a path, found 1"),
        ('relist = "yes"', "relist: expected true or false, found 'yes'"),
        ('format = "zar"', "format: unknown value 'zar' (did you mean zarr?); known: zarr, webdataset"),
        ("[teacher]", "teacher: expected text, or a list, found {}"),
        ("teacher", "is not TOML ("),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(line)
    with pytest.raises(UsageError) as raised:
        with_config(["--config", str(path)], Options, "extract-features")
    assert str(raised.value).startswith(f"{path}: ")
    assert words in str(raised.value)


def test_a_missing_file_and_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read \(No such file or directory\); check --config"):
        with_config(["--config", str(tmp_path / "none.toml")], Options, "extract-features")
    assert with_config(["--out", "x"], Options, "extract-features") == ["--out", "x"]


def test_a_plan_takes_it_and_no_reuse(file: Path) -> None:
    expanded = with_config(["--config", str(file), "--epochs", "3"], PLAN.options, "feature-cache plan")
    assert expanded[:2] == ["--teacher=deit-tiny", "--images=flowers"]
    assert expanded[-2:] == ["--epochs", "3"]
    file.write_text('reuse = "cache"')
    with pytest.raises(UsageError, match="'reuse' is no option of feature-cache plan"):
        with_config(["--config", str(file)], PLAN.options, "feature-cache plan")
