from __future__ import annotations

import pytest
import torch

from lookonce.shared.errors import UsageError
from lookonce.train.model.position import sincos_position_embedding


def test_first_half_of_the_channels_tells_the_column_second_the_row() -> None:
    grid = sincos_position_embedding(16, 3, cls_token=False).reshape(3, 3, 16)  # row, column, channel
    assert torch.equal(grid[0, :, :8], grid[2, :, :8])
    assert torch.equal(grid[:, 0, 8:], grid[:, 2, 8:])
    assert torch.equal(grid[:, 1, :8][0], grid[1, :, 8:][0])
    assert not torch.equal(grid[0, 1], grid[1, 0])


@pytest.mark.parametrize(("dim", "grid"), [(6, 2), (0, 2), (8, 0)])
def test_sizes_that_do_not_fit_are_refused(dim: int, grid: int) -> None:
    with pytest.raises(UsageError, match="sine-cosine"):
        sincos_position_embedding(dim, grid)
