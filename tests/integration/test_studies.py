"""The studies of examples/ in their quick mode: every table filled, nothing done twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lookonce.shared.errors import UsageError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Import a module of examples/ as a script there would."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(EXAMPLES)):
            del sys.modules[name]


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())["tables"]
    return found


def test_precisions_share_their_views_and_are_not_trained_twice(
    example: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, arguments = example("precision_study"), ["--quick", "--out", str(tmp_path)]
    study.main(arguments)
    lines = results(tmp_path)["precision"]
    names = [line["name"] for line in lines]
    assert names == ["fp16", "int8", "int4", "int2", "int4-visible", "int2-visible", "int4-visible-0.8"]
    losses = {line["name"]: line["measures"]["training loss"][0] for line in lines}
    assert len(set(losses.values())) == len(losses)  # six caches, not one six times
    assert abs(losses["int8"] - losses["fp16"]) < abs(losses["int2"] - losses["fp16"])
    printed = capsys.readouterr().out
    sizes = [row.split(" | ")[1] for row in printed.splitlines() if row.startswith(("| fp", "| int"))]
    assert sizes == ["23,964", "18,524", "15,804", "14,444", "4,196", "3,796", "3,226"]
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/student.safetensors")}
    study.main(arguments)
    assert capsys.readouterr().out == printed
    assert (tmp_path / "precision.png").read_bytes().startswith(b"\x89PNG")
    assert trained == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/student.safetensors")}


def test_the_ways_of_storing_are_chosen_by_name(example: Callable[[str], Any], tmp_path: Path) -> None:
    study = example("precision_study")
    ways = "fp16,klt1,klt0.25-visible-0.8"
    study.main(["--quick", "--out", str(tmp_path), "--ways", ways])
    lines = results(tmp_path)["precision"]
    assert [line["name"] for line in lines] == ways.split(",")
    assert len({line["measures"]["training loss"][0] for line in lines}) == 3
    for wrong, sentence in (("klt3", "unknown precision 'klt3'"), ("int4-visible-2", "expected PRECISION")):
        with pytest.raises(UsageError, match=sentence):
            study.parse_way(wrong)


def test_one_cache_serves_every_number_of_seeds(example: Callable[[str], Any], tmp_path: Path) -> None:
    example("cached_seeds").main(["--quick", "--out", str(tmp_path), "--run-seeds", "0-1"])
    lines = results(tmp_path)["seeds"]
    assert [(line["name"], line["seeds"]) for line in lines] == [("seeds1", [0, 1]), ("seeds2", [0, 1])]
    runs = [json.loads((tmp_path / f"runs/seeds{count}-seed0/config.json").read_text()) for count in (1, 2)]
    assert [run["seeds"] for run in runs] == [[0], [0, 1]]
    assert runs[0]["shards"] == runs[1]["shards"]
    assert (tmp_path / "cached_seeds.png").read_bytes().startswith(b"\x89PNG")
    assert "2 (online)" in (tmp_path / "tables.md").read_text()


def test_ablations_make_the_tables_that_are_asked_for(example: Callable[[str], Any], tmp_path: Path) -> None:
    example("ablations").main(["--quick", "--out", str(tmp_path), "--only", "alignment,order"])
    found = results(tmp_path)
    assert {name: [line["name"] for line in lines] for name, lines in found.items()} == {
        "alignment": ["base", "alignment-layerwise"],
        "order": ["base", "mix_order-mix-then-adapt"],
    }
    assert len(list(tmp_path.glob("runs/*"))) == 3  # the base is in both tables, and trained once
    measures = [line["measures"] for lines in found.values() for line in lines]
    assert len({one["held-out"][0] for one in measures}) == 3
    assert all(len(one) == 9 for one in measures)
    titles = [line for line in (tmp_path / "tables.md").read_text().splitlines() if line.startswith("#")]
    assert titles == ["### Layer-wise against dynamic alignment", "### Mix order"]


def test_every_ablation_is_a_run_that_the_trainer_accepts(example: Callable[[str], Any], tmp_path: Path) -> None:
    ablations = example("ablations")
    study = ablations.AblationStudy(images=tmp_path, out=tmp_path)
    variants = {
        ablations.run_name(changes): changes for _, lines in ablations.ABLATIONS.values() for changes in lines.values()
    }
    assert len(variants) == 20
    for changes in variants.values():
        config = study.training(tmp_path, **changes)
        assert all(getattr(config, name) == value for name, value in changes.items())


def test_an_unknown_table_and_a_folder_of_another_study_are_refused(
    example: Callable[[str], Any], tmp_path: Path
) -> None:
    from lookonce.shared.errors import UsageError

    ablations = example("ablations")
    with pytest.raises(UsageError, match="unknown table 'mask'; known: alignment, masks, adapters, layers, order"):
        ablations.main(["--quick", "--out", str(tmp_path), "--only", "mask"])
    arguments = ["--quick", "--out", str(tmp_path), "--only", "order"]
    ablations.main(arguments)
    for file in tmp_path.glob("runs/*/judged.json"):
        document = json.loads(file.read_text())
        file.write_text(json.dumps({**document, "config": {**document["config"], "epochs": 3}}))
    with pytest.raises(UsageError, match="judged with another configuration; choose another --out"):
        ablations.main(arguments)
