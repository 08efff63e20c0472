"""The classifier to fine-tune: the student as timm's model with a head, and its optimizer with layer decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from lookonce.train.evaluation.finetune.finetune_config import FinetuneConfig
from lookonce.train.model.student import Student

FinetunePool = Literal["mean", "cls"]
TIMM_POOLS: Mapping[FinetunePool, str] = {"mean": "avg", "cls": "token"}
HEAD_STD = 2e-5
"""Standard deviation of the head's initial weights, as in the releases of MAE and MaskAlign; initial scores are nearly
equal."""
NORM = ("norm.weight", "norm.bias")


def classifier_arguments(student: Student, classes: int, pool: FinetunePool) -> dict[str, Any]:
    """The arguments of ``timm.create_model`` for the classifier."""
    return {
        "model_name": student.name,
        "img_size": student.img_size,
        "num_classes": classes,
        "global_pool": TIMM_POOLS[pool],
    }


def classifier(student: Student, classes: int, pool: FinetunePool, *, drop_path: float, seed: int) -> nn.Module:
    """The student's weights in timm's model with a new head.

    With ``mean`` the patch tokens are averaged and then normalised by a new norm (timm's ``fc_norm``) in place of the
    student's final norm; with ``cls`` the final norm is kept. Position embeddings are trained.

    Args:
        student: the weights.
        classes: number of classes.
        pool: input of the head.
        drop_path: stochastic depth of the last block.
        seed: seed of the head; the global random state does not change.
    """
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = timm.create_model(
            **classifier_arguments(student, classes, pool), pretrained=False, drop_path_rate=drop_path
        )
    state = student.export_state()
    if pool == "mean":
        state = {name: value for name, value in state.items() if name not in NORM}
    model.load_state_dict({**_new_parts(model, seed), **state})
    return model


def layer_decay_optimizer(model: nn.Module, config: FinetuneConfig) -> torch.optim.AdamW:
    """AdamW in timm's layer groups (embedding, blocks, head), each with its ``lr_scale``; ``fit`` sets the rates."""
    groups = param_groups_layer_decay(
        model,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        no_weight_decay_list=model.no_weight_decay(),  # type: ignore[operator]
    )
    return torch.optim.AdamW(groups, lr=0.0)


def _new_parts(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Initial values of the head and, if there is one, of the norm after averaging."""
    state = model.state_dict()
    parts = {name: torch.empty_like(value) for name, value in state.items() if name.startswith(("head.", "fc_norm."))}
    for name, value in parts.items():
        if name == "head.weight":
            nn.init.trunc_normal_(value, std=HEAD_STD, generator=torch.Generator().manual_seed(seed))
        else:
            nn.init.constant_(value, 1.0 if name == "fc_norm.weight" else 0.0)
    return parts
