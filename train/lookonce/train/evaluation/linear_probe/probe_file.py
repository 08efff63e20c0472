"""A trained probe on disk: one linear layer and, for students, the whole classifier for timm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lookonce.train.evaluation.encoders.encoder import Encoder
from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder
from lookonce.train.evaluation.linear_probe.probe_head import LinearProbe
from lookonce.train.model.student_file import save_weights
from lookonce.train.model.timm_description import description_metadata, leave_timm_folder, timm_description

PROBE, MODEL = "probe.safetensors", "model.safetensors"
TIMM_POOLS: Mapping[str, Mapping[str, Any]] = {
    "cls": {"global_pool": "token"},
    "mean": {"global_pool": "avg", "fc_norm": False},
}
"""Our pooling rules as arguments of ``timm.create_model``; timm has no ``cls+mean``."""


def save_probe(probe: LinearProbe, encoder: Encoder, classes: Sequence[str], folder: Path) -> dict[str, Any]:
    """Write ``probe.safetensors`` and, for a student whose pooling timm has, ``model.safetensors``.

    The probe's file contains ``weight`` (C, D) and ``bias`` (C,) of a linear layer on pooled features, with the batch
    norm folded into it. The model's file is the student with that layer as its head and an identity final norm.

    Returns:
        ``probe`` and ``model`` (None if there is none): file names; ``timm``: arguments of ``timm.create_model`` for a
        model that loads ``model`` strictly.
    """
    weight_CD, bias_C = probe.folded()
    named = {"classes": json.dumps(list(classes), ensure_ascii=False)}
    save_weights({"weight": weight_CD, "bias": bias_C}, named, folder / PROBE)
    pooling = TIMM_POOLS.get(encoder.pool) if isinstance(encoder, StudentEncoder) else None
    if not isinstance(encoder, StudentEncoder) or pooling is None:
        return {"probe": PROBE, "model": None, "timm": None}
    student = encoder.student
    state = student.export_state()
    state["norm.weight"], state["norm.bias"] = torch.ones(student.dim), torch.zeros(student.dim)
    arguments = {
        "model_name": student.name,
        "img_size": student.img_size,
        "num_classes": len(classes),
        **pooling,
    }
    description = timm_description(student, classes=classes, model_args=pooling)
    metadata = {**named, "timm": json.dumps(arguments), **description_metadata(description)}
    save_weights({**state, "head.weight": weight_CD, "head.bias": bias_C}, metadata, folder / MODEL)
    leave_timm_folder(folder / MODEL, description)
    return {"probe": PROBE, "model": MODEL, "timm": arguments}
