"""Which sample is seen when: everything once an epoch, whatever the batch size, from (run seed, step) alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookonce.shared.errors import UsageError
from lookonce.train.data.sample_order import SampleOrder, ShardWindow

ROWS = np.array([0, 1, 2, 4, 5, 7, 8], dtype=np.int64)  # 3 and 6 are holes


def make_order(**changes: Any) -> SampleOrder:
    arguments: dict[str, Any] = {"rows": ROWS, "seeds": (0, 3), "run_seed": 1, "batch_size": 3, "epochs": 4, **changes}
    return SampleOrder(arguments.pop("rows"), arguments.pop("seeds"), **arguments)


def seen(order: SampleOrder) -> list[tuple[int, int, int]]:
    """(epoch, row, augmentation seed) of the whole run, in order."""
    steps = [order.step(step) for step in range(order.total_steps)]
    return [
        (int(epoch), int(row), int(seed))
        for step in steps
        for epoch, row, seed in zip(step.epochs, step.rows, step.seeds, strict=True)
    ]


windows = st.none() | st.builds(ShardWindow, shards=st.integers(1, 8), shard_size=st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(samples=st.integers(1, 30), batch_size=st.integers(1, 40), epochs=st.integers(1, 5), window=windows)
def test_every_sample_once_an_epoch_whatever_the_batch_size(
    samples: int, batch_size: int, epochs: int, window: ShardWindow | None
) -> None:
    rows = np.arange(samples) * 2
    run = seen(make_order(rows=rows, batch_size=batch_size, epochs=epochs, window=window))
    assert len(run) == samples * epochs
    for epoch in range(epochs):
        assert sorted(row for at, row, _ in run if at == epoch) == rows.tolist()


def test_the_sequence_does_not_depend_on_the_batch_size() -> None:
    assert seen(make_order(batch_size=1)) == seen(make_order(batch_size=5)) == seen(make_order(batch_size=100))


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 60),
    holes=st.sets(st.integers(0, 59)),
    shards=st.integers(1, 6),
    shard_size=st.integers(1, 10),
    run_seed=st.integers(0, 99),
)
def test_a_window_bounds_the_open_shards_and_opens_each_once(
    samples: int, holes: set[int], shards: int, shard_size: int, run_seed: int
) -> None:
    rows = np.array(sorted({*range(samples), 60} - holes), dtype=np.int64)
    window = ShardWindow(shards=shards, shard_size=shard_size)
    run = seen(make_order(rows=rows, run_seed=run_seed, epochs=2, window=window))
    for epoch in range(2):
        of_sample = [row // shard_size for at, row, _ in run if at == epoch]
        first = {shard: of_sample.index(shard) for shard in of_sample}
        last = {shard: place for place, shard in enumerate(of_sample)}
        for place in range(len(of_sample)):  # a shard is open from its first sample to its last
            assert sum(first[shard] <= place <= last[shard] for shard in first) <= shards


def test_a_window_mixes_shards_and_a_window_of_all_is_the_global_shuffle() -> None:
    rows = np.arange(400)
    narrow, whole, everything = (
        make_order(rows=rows, batch_size=50, epochs=1, window=window)
        for window in (ShardWindow(shards=5, shard_size=20), ShardWindow(shards=20, shard_size=20), None)
    )
    assert seen(whole) == seen(everything) != seen(narrow)
    inside = [len(set((narrow.step(step).rows // 20).tolist())) for step in range(1, 7)]
    assert all(3 <= shards <= 9 for shards in inside), inside  # 50 samples move the window on by 2.5 shards


def test_the_sequence_of_a_window_does_not_depend_on_the_batch_size_either() -> None:
    window = ShardWindow(shards=2, shard_size=2)
    assert seen(make_order(batch_size=1, window=window)) == seen(make_order(batch_size=5, window=window))
    assert seen(make_order(window=window, run_seed=2)) != seen(make_order(window=window))


def test_seeds_rotate_over_epochs() -> None:
    assert {(epoch, seed) for epoch, _, seed in seen(make_order())} == {(0, 0), (1, 3), (2, 0), (3, 3)}


def test_holes_never_appear() -> None:
    assert {row for _, row, _ in seen(make_order())} == set(ROWS.tolist())


def test_a_step_is_a_function_of_the_run_seed_and_its_number_alone() -> None:
    forwards, backwards = make_order(), make_order()
    steps = range(forwards.total_steps)
    there = [forwards.step(step).rows.tolist() for step in steps]
    back = [backwards.step(step).rows.tolist() for step in reversed(steps)]
    assert there == back[::-1]
    assert seen(make_order(run_seed=2)) != seen(make_order())


def test_epochs_are_shuffled_anew() -> None:
    run = seen(make_order(rows=np.arange(50), epochs=2))
    assert [row for epoch, row, _ in run if epoch == 0] != [row for epoch, row, _ in run if epoch == 1]


@pytest.mark.parametrize("step", [-1, 10])
def test_no_step_outside_the_run(step: int) -> None:
    assert make_order().total_steps == 10  # 28 samples, 3 a step, the last step smaller
    with pytest.raises(IndexError, match="of 10"):
        make_order().step(step)


@pytest.mark.parametrize("nothing", [{"rows": np.empty(0, np.int64)}, {"seeds": ()}])
def test_nothing_to_train_on_is_refused(nothing: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="nothing to train on"):
        make_order(**nothing)
