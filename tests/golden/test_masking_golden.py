"""Keep frequencies of the released masking code (``torch.multinomial``, without replacement), and ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from lookonce.shared.masking import mask_noise, visible_count, visible_patches

DRAWS = 20000


def test_keep_frequencies_agree_within_sampling_error(golden_dir: Path) -> None:
    cases = [case for case in json.loads((golden_dir / "cases.json").read_text()) if case["kind"] == "masking"]
    assert cases
    for case in cases:
        golden = load_file(golden_dir / case["file"])
        assert visible_count(case["patches"], case["mask_ratio"]) == case["kept"]
        importance = np.broadcast_to(golden["importance"], (DRAWS, case["patches"]))
        noise = mask_noise(0, 0, [f"{draw}.jpg" for draw in range(DRAWS)], [0] * DRAWS, case["patches"])
        for kind in ("attentive", "random"):
            visible = visible_patches(kind, importance, noise, case["mask_ratio"])
            found = np.bincount(visible.ravel(), minlength=case["patches"]) / DRAWS
            expected = golden[f"keep_frequency_{kind}"].astype(np.float64)
            pooled = (found * DRAWS + expected * case["draws"]) / (DRAWS + case["draws"])
            error = np.sqrt(pooled * (1 - pooled) * (1 / DRAWS + 1 / case["draws"])) + 1 / DRAWS
            assert (np.abs(found - expected) / error).max() < 5, kind


def test_hide_attentive_hides_what_attentive_would_keep(golden_dir: Path) -> None:
    golden = load_file(golden_dir / "masking.safetensors")
    patches = len(golden["importance"])
    importance = np.broadcast_to(golden["importance"], (DRAWS, patches))
    noise = mask_noise(1, 0, [f"{draw}.jpg" for draw in range(DRAWS)], [0] * DRAWS, patches)
    kept = visible_count(patches, 0.7)
    visible = visible_patches("hide-attentive", importance, noise, kept / patches)  # hides as many as attentive keeps
    hidden = 1 - np.bincount(visible.ravel(), minlength=patches) / DRAWS
    expected = golden["keep_frequency_attentive"].astype(np.float64)
    error = np.sqrt(2 * expected * (1 - expected) / DRAWS) + 1 / DRAWS
    assert (np.abs(hidden - expected) / error).max() < 5
