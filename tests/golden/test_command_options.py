"""The command line is a contract: flags may be added, never lost, renamed or given another default unnoticed."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import get_type_hints

import pytest

from lookonce.commands.evaluation_commands.finetune import FinetuneOptions
from lookonce.commands.evaluation_commands.knn import KnnOptions
from lookonce.commands.evaluation_commands.linear import LinearOptions
from lookonce.commands.evaluation_commands.segment import SegmentOptions
from lookonce.extract.config import ExtractionConfig
from lookonce.train.config import TrainingConfig

PINNED = Path(__file__).with_name("command_options.json")
CONFIGS = {
    "extract-features": ExtractionConfig,
    "train-student": TrainingConfig,
    "evaluate-student knn": KnnOptions,
    "evaluate-student linear": LinearOptions,
    "evaluate-student finetune": FinetuneOptions,
    "evaluate-student segment": SegmentOptions,
}

CONTRACT = {
    "extract-features": """teacher images out seeds layers precision format pixels teacher_weights limit view_size
        patch_size batch_size shard_size workers ray_address executor device compute_precision on_bad_image""",
    "train-student": """shards out student mask mask_ratio alignment mix_order adapter layer_weights loss loss_scale
        target_norm epochs warmup_epochs batch_size base_lr min_lr weight_decay drop_path precision compile seed
        max_steps resume workers""",
    "evaluate-student knn": "weights images json debug",
    "evaluate-student linear": "weights images json debug",
    "evaluate-student finetune": "weights images json debug",
    "evaluate-student segment": "weights images masks json debug",
}
"""The flags of the commands' contract."""


def options(config: type) -> dict[str, str]:
    found: dict[str, str] = {}
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]):  # flags of a config that the options contain
            found |= options(hints[field.name])
        else:
            found[field.name] = "required" if field.default is dataclasses.MISSING else str(field.default)
    return found


@pytest.mark.parametrize("command", CONFIGS)
def test_the_contract_is_there(command: str) -> None:
    assert set(CONTRACT[command].split()) <= set(options(CONFIGS[command]))


@pytest.mark.parametrize("command", CONFIGS)
def test_options_and_defaults_are_as_pinned(command: str) -> None:
    """Set LOOKONCE_PIN_OPTIONS=1 to write the file anew after a deliberate change, and note it in the changelog."""
    if os.environ.get("LOOKONCE_PIN_OPTIONS"):
        pinned = {name: options(config) for name, config in CONFIGS.items()}
        PINNED.write_text(json.dumps(pinned, indent=1) + "\n")
    assert options(CONFIGS[command]) == json.loads(PINNED.read_text())[command]
