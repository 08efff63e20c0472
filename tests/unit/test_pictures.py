"""Pictures of a run: lines and rows are named, and no two lines look alike."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from lookonce.train.records import pictures
from lookonce.train.records.pictures import draw_loss, draw_mixture, level_styles, mixture_pixels


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures, as they are saved."""
    figures: list[Figure] = []
    save = pictures._save
    monkeypatch.setattr(pictures, "_save", lambda figure, path: (figures.append(figure), save(figure, path)))
    return figures


def texts(figure: Figure) -> set[str]:
    found = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    for axes in figure.axes:
        found |= {axes.get_title(), axes.get_xlabel(), axes.get_ylabel()}
    return found | {figure.get_suptitle()}


@pytest.mark.parametrize("count", [1, 5, 10, 24])
def test_no_two_levels_have_one_colour_and_neighbours_differ_in_style_too(count: int) -> None:
    styles = level_styles(count)
    assert len(styles) == len({colour for colour, _ in styles}) == count
    assert all(one[1] != other[1] for one, other in itertools.pairwise(styles))
    assert all(max(colour) < 0.95 and sum(colour) < 2 for colour, _ in styles)  # seen on white


def test_the_loss_of_two_teachers_is_named_by_teacher_and_block(tmp_path: Path, drawn: list[Figure]) -> None:
    labels = {
        f"{number}/{block}": f"{name}, block {block}" for number, name in ((1, "a"), (2, "b")) for block in (8, 9)
    }
    lines: list[dict[str, Any]] = [
        {"step": step, "loss": 1.0, "lr": 1e-3, "level_loss": dict.fromkeys(labels, 0.5)} for step in (0, 1)
    ]
    draw_loss(lines, labels, tmp_path / "loss.png", title="s learning from a and b", loss="smooth-l1")
    (figure,) = drawn
    assert {*labels.values(), "loss of the run", "learning rate (right)", "s learning from a and b", "step"} <= texts(
        figure
    )
    assert "loss (smooth-l1)" in texts(figure)
    assert all(line.get_marker() == "o" for line in figure.axes[0].get_lines())  # two points alone would not be seen


def test_a_run_without_a_logged_line_has_a_picture(tmp_path: Path) -> None:
    draw_loss([], {"8": "a, block 8"}, tmp_path / "loss.png", title="s learning from a", loss="l2")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_w_is_named_by_student_and_teacher(tmp_path: Path, drawn: list[Figure]) -> None:
    weight = np.eye(2, 6, dtype=np.float32)
    names = {"student": "test_vit", "teacher": "deit_tiny", "teacher_blocks": (5, 6)}
    draw_mixture(weight, weight * 0.5, tmp_path / "alignment.png", **names)
    assert {"test_vit: its blocks mixed to match deit_tiny", "student block", "teacher block"} <= texts(drawn[0])
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["5", "6"]
    pixels = mixture_pixels(weight, **names)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (290, 550, 3))
    red = (pixels[..., 0].astype(int) - pixels[..., 2]) > 60  # W's two ones
    assert 0.05 < red.mean() < 0.3
