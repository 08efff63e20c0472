"""``--precision auto:PERCENT``: the fewest bits within an estimated cost, chosen once and then like any precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.convert.conversion import convert_cache
from lookonce.cache.convert.request import ConversionRequest
from lookonce.cache.layout import CacheLayout
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.errors import UsageError
from lookonce.storage_schemas.precision import TargetShape, choose_precision, gathered_statistics
from lookonce.storage_schemas.precision.klt.automatic import estimated_loss_percent

from .conftest import files_of

SHAPE = TargetShape(patches=16, layers=2, channels=12, all_patches=True)


@pytest.fixture(scope="module")
def statistics() -> Any:
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((24, 24)) * np.arange(1, 25) ** -1.0
    views = generator.standard_normal((64, 17, 24)) @ mixing.T
    return gathered_statistics([views.reshape(64, 17, 2, 12).astype(np.float32)], SHAPE)


def test_the_fewest_bits_within_the_percentage_are_chosen(statistics: Any) -> None:
    rates = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    costs = {rate: estimated_loss_percent(statistics.code(rate)[1].relative_error) for rate in rates}
    assert sorted(costs.values(), reverse=True) == list(costs.values())
    for rate, cost in costs.items():
        choice = choose_precision(statistics, f"auto:{cost * 1.0001}")
        assert choice.precision.rate == rate
        assert choice.percent == pytest.approx(cost)
        wanted = statistics.code(rate)[0].parameters()
        found = choice.code.parameters()
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    finest = costs[2.0]
    with pytest.raises(UsageError, match=r"klt2 has an estimated cost of .* %"):
        choose_precision(statistics, f"auto:{finest * 0.99}")
    with pytest.raises(UsageError, match=r"no KLT precision has fewer than 0\.25 bits"):
        choose_precision(statistics, "auto:1", below_bits=0.25)
    with pytest.raises(UsageError, match=r"klt1\.5 has an estimated cost"):
        choose_precision(statistics, f"auto:{finest * 1.0001}", below_bits=2.0)


@pytest.mark.parametrize("text", ["auto", "auto:", "auto:0", "auto:-1", "auto:nan", "auto:inf", "auto:101", "auto:x"])
def test_a_percentage_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    for make in (
        lambda: ExtractionConfig(teacher="deit-tiny", images="x", out=tmp_path, precision=text),
        lambda: ConversionRequest(precision=text),
    ):
        with pytest.raises(UsageError, match=rf"{text}: expected auto:PERCENT, above 0 and at most 100"):
            make()


def test_an_extraction_chooses_once_and_resumes(
    extract_tiny: Callable[..., Any], forks: Any, tiny_arguments: Callable[..., list[Any]], tmp_path: Path
) -> None:
    out = tmp_path / "auto"
    ended = extract_tiny(out, precision="auto:30", seeds="0", layers="top2")
    assert ended.code == 0, ended.err
    manifest = CacheLayout(out).load_manifest()
    chosen = manifest.encoding.precision
    assert f"--precision auto:30: {chosen}, whose expected error" in ended.err
    named = extract_tiny(tmp_path / "named", precision=chosen, seeds="0", layers="top2")
    assert named.code == 0, named.err
    assert files_of(out) == files_of(tmp_path / "named")
    for precision in ("auto:1", chosen):
        again = extract_tiny(out, precision=precision, seeds="0-1", layers="top2")
        assert again.code == 0, again.err
        assert (f"was created with {chosen}, which stays" in again.err) == (precision == "auto:1")
    copied = extract_tiny(tmp_path / "copy", precision="auto:1", seeds="0", layers="top2", reuse=out)
    assert copied.code == 0, copied.err
    assert CacheLayout(tmp_path / "copy").load_manifest().encoding.digest == manifest.encoding.digest
    plan = forks.start(["plan", *tiny_arguments(tmp_path / "p", precision="auto:1")], command="feature-cache").wait()
    assert plan.code == 2
    assert "a plan has none; leave it out" in plan.err


def test_a_conversion_chooses_below_its_source(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    source = training_cache(precision="fp16", make_arrays=None)
    first = convert_cache(source, tmp_path / "one", ConversionRequest(precision="auto:100"))
    again = convert_cache(source, tmp_path / "one", ConversionRequest(precision="auto:100"))
    assert first.precision == again.precision
    assert (first.shards_written > 0, again.shards_written) == (True, 0)
    assert first.precision.startswith("klt")
    named = convert_cache(source, tmp_path / "two", ConversionRequest(precision=first.precision))
    assert named.precision == first.precision
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
