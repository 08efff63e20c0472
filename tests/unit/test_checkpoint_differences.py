"""Checkpoints of other runs: what is said, and what older checkpoints do not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookonce.shared.errors import CheckpointError
from lookonce.train.checkpoints.checkpoint_file import Checkpoint
from lookonce.train.checkpoints.resuming import check_continues

DATA = {"cache_precisions": ["int8"], "cache_encodings": ["sha256:0"]}


def test_a_checkpoint_from_before_precisions_were_noted_continues() -> None:
    older = Checkpoint(step=1, config={}, data={"cache_encodings": ["sha256:0"]}, state={})
    check_continues(Path("c.pt"), older, {}, DATA)


def test_precisions_come_before_digests() -> None:
    here = {"cache_precisions": ["int4"], "cache_encodings": ["sha256:1"]}
    checkpoint = Checkpoint(step=1, config={}, data=DATA, state={})
    with pytest.raises(CheckpointError, match=r"\(data.cache_precisions: .*'int8'.* now .*'int4'.*; data.cache_enc"):
        check_continues(Path("c.pt"), checkpoint, {}, here)
