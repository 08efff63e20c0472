"""Every block of code in README.md and docs/ is executed, page by page and in order, or says why it is not.

A block that is not executed has a comment above it, ``<!-- skip: next "reason" -->``, which readers of the page do not
see. What a page needs before its first block stands in an ``<!-- invisible-code-block: bash ... -->``.

The README, the first page and the pages of sharing and of your own trainer run in ``make test``. The long guides (SLOW)
run in ``make test-slow``; in ``make test`` their commands are parsed, which the others' are too.

Commands run as they are written, but small: SMALL lists the flags that are replaced, and the images, weights and model
names that stand for those of the page. Every flag and name of a page is parsed by the command that it is for.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import shutil
import subprocess
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from lookonce import api
from lookonce.commands import evaluate_student, extract_features, feature_cache, train_student
from lookonce.commands.command import parse_arguments
from lookonce.shared import errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODEL = "test_vit"
"""timm's smallest vision transformer: 6 blocks, 64 channels, patches of 16."""
WEIGHTS = "deit_tiny_patch16_224.safetensors"
"""A file of this name, with random weights of MODEL, lies where the pages run."""

TEACHER = {"--teacher": f"timm:{MODEL}", "--teacher-weights": WEIGHTS}
SMALL: dict[str, dict[str, str]] = {
    "extract-features": {**TEACHER, "--executor": "inline", "--view-size": "64"},
    "train-student": {"--student": MODEL, "--batch-size": "4", "--epochs": "2", "--workers": "1"},
    "train-student --lengthen": {"--epochs": "3"},
    "feature-cache plan": {**TEACHER, "--executor": "inline", "--view-size": "64"},
    "feature-cache find": {"--teacher": f"timm:{MODEL}", "--view-size": "64"},
    "feature-cache drift": {"--teacher-weights": WEIGHTS},
    "feature-cache fidelity --teacher": {**TEACHER, "--view-size": "64"},
    "evaluate-student knn": {"--view-size": "64", "--k": "3"},
    "evaluate-student linear": {"--epochs": "2"},
    "evaluate-student finetune": {"--epochs": "1", "--warmup-epochs": "0", "--train-batch-size": "8", "--workers": "0"},
}
"""Flags that are set, in place of the page's or beside them, for commands that begin so or hold that flag."""

STAND_INS = {
    "vit_base_patch16_224": MODEL,
    "vit_tiny_patch16_224": MODEL,
    f'teacher_weights=Path("{WEIGHTS}"),': "",
    'teacher="deit-tiny",': f'teacher="timm:{MODEL}", teacher_weights="{WEIGHTS}", view_size=64,',
    "num_classes=0": "num_classes=0, img_size=64",
    "range(800)": "range(20)",
    "number < 600": "number < 10",
    "batch_size=256": "batch_size=4",
    "batch_size=64": "batch_size=4",
    "epochs=50": "epochs=2",
    "epochs=10": "epochs=2",
}
"""What Python blocks hold, and what is executed in its place."""

OURS = ("extract-features", "train-student", "feature-cache", "evaluate-student")

SLOW = {"docs/train.md", "docs/extract.md", "docs/evaluate.md"}
"""Guides whose commands the README has too, for the most part: they are executed by ``make test-slow``."""

PROGRAMS: dict[str, Any] = {
    "extract-features": extract_features.Options,
    "train-student": train_student.Options,
    "evaluate-student": evaluate_student._any_options(),
    "feature-cache": feature_cache._any_options(),
}

TOLD = {"text", "math", "json", "toml"}
"""Languages of blocks in which there is nothing to execute."""


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images and weights that the pages speak of; not to be changed."""
    folder = tmp_path_factory.mktemp("scene")
    generator = np.random.default_rng(0)
    for row in range(24):
        file = folder / "pictures" / ("train" if row < 16 else "test") / f"class{row % 2}" / f"{row:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8))
        image.save(file)
        photograph = folder / "flower_photos" / file.parent.name / f"{row:03d}.jpg"
        photograph.parent.mkdir(parents=True, exist_ok=True)
        image.save(photograph)
        for kind, pixels in (("images", image), ("masks", Image.new("L", image.size, row % 2))):
            file = folder / "scenes" / kind / ("train" if row < 16 else "val") / f"{row:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels.save(file)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model(MODEL, num_classes=0).state_dict(), folder / WEIGHTS)
    return folder


def furnish(folder: Path, scene: Path) -> None:
    """The names that pages give to images."""
    shutil.copy(scene / WEIGHTS, folder)
    (folder / "data").mkdir()
    (folder / "flower_photos").symlink_to(scene / "flower_photos")
    for name in ("pictures", "data/flowers", "data/imagenet"):
        (folder / name).symlink_to(scene / "pictures")
    (folder / "data" / "scenes").symlink_to(scene / "scenes")
    (folder / "data" / "grown").symlink_to(scene / "pictures" / "train")


def shrunk(words: list[str]) -> list[str]:
    """A command's words, with the flags of SMALL."""
    for beginning, flags in SMALL.items():
        if all(word in words for word in beginning.split()):
            for flag, value in flags.items():
                given = words.index(flag) if flag in words else len(words)
                words = [*words[:given], flag, value, *words[given + 2 :]]
    if words[0] == "evaluate-student" and "--teacher" in words:
        at = words.index("--teacher")
        words = [*words[:at], *(part for pair in TEACHER.items() for part in pair), *words[at + 2 :]]
    return [MODEL if word in STAND_INS else word for word in words]


class Page:
    """Executes the blocks of one page in a folder of its own."""

    def __init__(self, folder: Path, forks: Any) -> None:
        self.folder, self.forks = folder, forks

    def bash(self, example: Example) -> None:
        """Lookonce's commands one by one, what is between them as scripts."""
        block = str(example.parsed).replace("/data/", f"{self.folder}/data/").replace("\\\n", " ")
        for ours, lines in itertools.groupby(block.splitlines(), key=lambda line: line.startswith(OURS)):
            if ours:
                for line in lines:
                    self.command(shlex.split(line, comments=True))
            else:
                script = "\n".join(line for line in lines if not line.startswith("pip install "))  # all is installed
                subprocess.run(["bash", "-euc", script], cwd=self.folder, check=True)

    def command(self, words: list[str]) -> None:
        """One of lookonce's commands, made small."""
        command, *arguments = shrunk(words)
        own = {"LOOKONCE_CATALOGUE": str(self.folder / "catalogue")}
        ended = self.forks.start(arguments, command=command, folder=self.folder, **own).wait()
        assert ended.code == 0, f"{shlex.join(words)}\n{ended.err}"


@pytest.mark.filterwarnings("default")  # of libraries that readers use
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for page in PAGES
        if (name := str(page.relative_to(ROOT)))
    ],
)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, scene: Path, forks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(tmp_path, scene)
    monkeypatch.chdir(tmp_path)
    text = page.read_text("utf-8")
    for given, here in STAND_INS.items():
        text = text.replace(given, here)
    parsers = CodeBlockParser("bash", Page(tmp_path, forks).bash), PythonCodeBlockParser(), SkipParser()
    for table in re.findall(r"^```toml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        (tmp_path / "runs.toml").write_text(table)  # a sweep, the only such file there is
    document = Document(text, str(page))
    for region in (region for parser in parsers for region in parser(document)):
        document.add(region)
    for example in document:
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()


def commands(page: Path) -> list[list[str]]:
    """Every command of lookonce on a page, as typed; those with ``...`` are sketches."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    typed = [shlex.split(line, comments=True) for line in lines]
    return [words for words in typed if words and words[0] in PROGRAMS and "..." not in words]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_command_of_a_page_is_parsed(page: Path) -> None:
    for command, *arguments in commands(page):
        defaults = train_student.recipe_defaults if command == "train-student" else lambda _: None
        assert parse_arguments(PROGRAMS[command], prog=command, description="", arguments=arguments, defaults=defaults)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_is_not_executed_says_why(page: Path) -> None:
    text = page.read_text("utf-8")
    fences = re.findall(r"^ *```(\S*)[^\n]*\n.*?^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    assert {language or "text" for language in fences} <= {"bash", "python", *TOLD}
    for mark in re.findall(r"<!--+ *skip:? (.*?) *-->", text):
        assert re.fullmatch(r'(next|start) ".{20,}"|end', mark), f"{mark}: give the reason in quotes"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_pictures_and_files_that_a_page_names_are_there_and_small(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    named = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    files = [page.parent / name for name in named if name]
    assert [str(file) for file in files if not file.exists()] == []
    assert [file.name for file in files if file.suffix == ".png" and file.stat().st_size > 150_000] == []


def test_every_public_name_is_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    named = set(re.findall(r"^::: lookonce\.api\.(\w+)$", text, flags=re.MULTILINE))
    assert "::: lookonce.shared.errors" in text
    raised = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert named | raised == set(api.__all__)


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    def lines(of: type[Exception], margin: str = "") -> Iterator[str]:
        below = [error for error in vars(errors).values() if isinstance(error, type) and of in error.__bases__]
        for number, error in enumerate(below, start=1):
            last = number == len(below)
            yield f"{margin}{'└──' if last else '├──'} {error.__name__}"
            yield from lines(error, f"{margin}{'    ' if last else '│   '}")

    drawn = re.search(r"```text\nLookonceError\n(.*?)```", errors.__doc__ or "", re.DOTALL)
    assert drawn is not None
    assert drawn[1].splitlines() == list(lines(errors.LookonceError))
