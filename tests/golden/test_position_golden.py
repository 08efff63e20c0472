"""Position embeddings against the released code's: names are ``pos_embed_{dim}_{grid}``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from lookonce.train.model.position import sincos_position_embedding


def test_position_embeddings_are_the_released_codes(golden_dir: Path) -> None:
    cases = [case for case in json.loads((golden_dir / "cases.json").read_text()) if case["kind"] == "pos_embed"]
    assert cases
    for case in cases:
        for name, expected in load_file(golden_dir / case["file"]).items():
            dim, grid = (int(part) for part in name.removeprefix("pos_embed_").split("_"))
            found = sincos_position_embedding(dim, grid)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0, msg=lambda text, n=name: f"{n}: {text}")
            assert found[0].count_nonzero() == 0
            assert torch.equal(sincos_position_embedding(dim, grid, cls_token=False), found[1:])
