"""The classifier that is fine-tuned: the student as timm's own model with a head, and its optimizer by layers."""

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
"""Spread of the head's first weights, as in MAE's and MaskAlign's release: the first scores are all but equal."""
NORM = ("norm.weight", "norm.bias")


def classifier_arguments(student: Student, classes: int, pool: FinetunePool) -> dict[str, Any]:
    """What ``timm.create_model`` makes the classifier from."""
    return {
        "model_name": student.name,
        "img_size": student.img_size,
        "num_classes": classes,
        "global_pool": TIMM_POOLS[pool],
    }


def classifier(student: Student, classes: int, pool: FinetunePool, *, drop_path: float, seed: int) -> nn.Module:
    """The student's weights in timm's model with a new head.

    With ``mean`` the patch tokens are averaged and then normed by a new norm (timm's ``fc_norm``), and the student's
    final norm is left out; with ``cls`` it is kept. Position embeddings are trained.

    Args:
        student: where the weights are from.
        classes: number of classes.
        pool: what the head looks at.
        drop_path: stochastic depth of the last block.
        seed: seed of the head; the global random state is left alone.
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
    """AdamW in timm's layer groups (embedding, blocks, head), each with its ``lr_scale``; rates are set by ``fit``."""
    groups = param_groups_layer_decay(
        model,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        no_weight_decay_list=model.no_weight_decay(),  # type: ignore[operator]
    )
    return torch.optim.AdamW(groups, lr=0.0)


def _new_parts(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """The head, and the norm after averaging where there is one, as they start."""
    state = model.state_dict()
    parts = {name: torch.empty_like(value) for name, value in state.items() if name.startswith(("head.", "fc_norm."))}
    for name, value in parts.items():
        if name == "head.weight":
            nn.init.trunc_normal_(value, std=HEAD_STD, generator=torch.Generator().manual_seed(seed))
        else:
            nn.init.constant_(value, 1.0 if name == "fc_norm.weight" else 0.0)
    return parts
