"""The order of samples, pinned: once released, it changes only with ORDER_VERSION and a note in the changelog."""

from __future__ import annotations

import numpy as np

from lookonce.train.data.sample_order import BLOCK_ORDER_VERSION, ORDER_VERSION, SampleOrder, ShardWindow

PINNED = [  # (epochs, rows, augmentation seeds) of each step
    ([0, 0, 0, 0, 0], [8, 5, 4, 0, 7], [0, 0, 0, 0, 0]),
    ([0, 0, 1, 1, 1], [1, 2, 5, 8, 4], [0, 0, 3, 3, 3]),
    ([1, 1, 1, 1, 2], [0, 1, 7, 2, 1], [3, 3, 3, 3, 0]),
    ([2, 2, 2, 2, 2], [5, 7, 4, 0, 8], [0, 0, 0, 0, 0]),
    ([2], [2], [0]),
]


def test_the_order_is_the_released_one() -> None:
    rows = np.array([0, 1, 2, 4, 5, 7, 8], dtype=np.int64)  # 3 and 6 are holes
    order = SampleOrder(rows, (0, 3), run_seed=1, batch_size=5, epochs=3)
    steps = [order.step(step) for step in range(order.total_steps)]
    assert [(step.epochs.tolist(), step.rows.tolist(), step.seeds.tolist()) for step in steps] == PINNED
    assert ORDER_VERSION == 1


PINNED_BLOCKS = [  # rows of each step; shards of 3
    [5, 4, 8, 9, 10],
    [7, 11, 12, 1, 0],
    [2, 12, 2, 1, 0],
    [5, 4, 8, 11, 7],
    [9, 10],
]


def test_the_order_within_a_window_of_shards_is_the_released_one() -> None:
    rows = np.array([0, 1, 2, 4, 5, 7, 8, 9, 10, 11, 12], dtype=np.int64)
    window = ShardWindow(shards=2, shard_size=3)
    order = SampleOrder(rows, (0, 3), run_seed=1, batch_size=5, epochs=2, window=window)
    assert [order.step(step).rows.tolist() for step in range(order.total_steps)] == PINNED_BLOCKS
    assert BLOCK_ORDER_VERSION == 1
