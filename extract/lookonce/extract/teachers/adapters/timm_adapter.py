"""timm's vision transformers as teachers."""

from __future__ import annotations

import re
from typing import Any

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lookonce.extract.teachers.adapters.silence import suppress_library_output
from lookonce.extract.teachers.adapters.timm_trunk import TimmTrunk, make_trunk
from lookonce.extract.teachers.hub import TIMM_FILES
from lookonce.extract.teachers.spec import SUPPORTED_TEACHERS, TeacherSpec, rgb
from lookonce.shared.errors import TeacherError, UsageError
from lookonce.shared.names import close_names, did_you_mean


def describe(name: str) -> TeacherSpec:
    """Spec of timm's ``NAME[.TAG]``.

    Raises:
        UsageError: timm has no such model or tag (the message lists close ones).
        TeacherError: the model is not a supported vision transformer.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = close_names(architecture, timm.list_models(), most=5)
        raise UsageError(f"teacher: timm has no model '{architecture}'{did_you_mean(close)}")
    default: Any = timm.models.get_pretrained_cfg(architecture)
    try:
        config: Any = timm.models.get_pretrained_cfg(f"{architecture}.{tag}") if tag else default
    except RuntimeError as error:
        known = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
        raise UsageError(
            f"timm's {architecture} has no weights '{tag}'; it has {', '.join(known) or 'none'}"
        ) from error
    if "QuickGELU" in str(getattr(config, "notes", "")) and "_clip_quickgelu" not in architecture:
        # Weights trained with QuickGELU give wrong features with GELU: use the architecture with QuickGELU.
        quick = architecture.replace("_clip", "_clip_quickgelu", 1)
        if timm.is_model(quick):
            return describe(f"{quick}.{tag or config.tag}")
    patch_size = patch_size_of(architecture)
    default_tag = default.tag if default is not None else ""
    tag = tag or default_tag or ""
    return TeacherSpec(
        name=f"timm:{architecture}" + ("" if tag == default_tag else f".{tag}"),
        library="timm",
        architecture=architecture,
        tag=tag,
        patch_size=patch_size,
        mean=rgb(config.mean) if config is not None else (0.5, 0.5, 0.5),
        std=rgb(config.std) if config is not None else (0.5, 0.5, 0.5),
        quick_gelu="quickgelu" in architecture,
    )


def patch_size_of(architecture: str) -> int:
    """Side of a patch in pixels: from the name, or from the model if the name does not contain it (test_vit).

    Raises:
        TeacherError: the name does not contain it, and the model is not a supported vision transformer.
    """
    if match := re.search(r"patch(\d+)", architecture):
        return int(match[1])
    embed: Any = _default_model(architecture, f"timm:{architecture}").patch_embed
    size: int = embed.img_size[0] // embed.grid_size[0]
    return size


def _default_model(architecture: str, name: str) -> VisionTransformer | Eva:
    """The architecture with its default input size, on the meta device."""
    with suppress_library_output(), torch.device("meta"):
        model = timm.create_model(architecture, pretrained=False)
    if not isinstance(model, VisionTransformer | Eva):
        raise TeacherError(f"{name} is not a supported teacher: it is a {type(model).__name__}; {SUPPORTED_TEACHERS}")
    return model


def build_trunk(spec: TeacherSpec, input_size: int) -> TimmTrunk:
    """The trunk for square inputs of ``input_size`` pixels, on the meta device, without weights.

    Raises:
        TeacherError: the model is not a supported vision transformer, or does not exist in that size.
    """
    return build_timm_trunk(spec.architecture, input_size, spec.name)


def build_timm_trunk(architecture: str, input_size: int, name: str, **options: Any) -> TimmTrunk:
    """``build_trunk`` for the timm architecture of the teacher ``name``, with more options of timm."""
    # All inputs have one size, so positions need not be computed for each batch.
    options = {"img_size": input_size, "dynamic_img_size": False, "num_classes": 0, **options}
    try:
        with suppress_library_output(), torch.device("meta"):
            model = timm.create_model(architecture, pretrained=False, **options)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError) as error:
        _default_model(architecture, name)  # raises if the class is the reason
        raise TeacherError(
            f"{name} is not a supported teacher for these views: timm cannot build it for {input_size} px ({error})"
        ) from error
    return make_trunk(model, name)


def pretrained_state(spec: TeacherSpec) -> dict[str, Tensor]:
    """Parameters of the pretrained model at its default input size, from the hub or its cache; raises timm's errors."""
    with suppress_library_output():
        model = timm.create_model(f"{spec.architecture}.{spec.tag}", pretrained=True, num_classes=0)
    state: dict[str, Tensor] = model.state_dict()
    return state


def hub_files(spec: TeacherSpec) -> tuple[str, tuple[str, ...]]:
    """The hub repository of the weights, and their file names there; empty if timm has no weights."""
    if not spec.tag:
        return "", ()
    config: Any = timm.models.get_pretrained_cfg(f"{spec.architecture}.{spec.tag}")
    named = getattr(config, "hf_hub_filename", None)
    repository = getattr(config, "hf_hub_id", None) or f"timm/{spec.architecture}.{spec.tag}"
    return str(repository), (named,) if named else TIMM_FILES


def weights_origin(spec: TeacherSpec) -> str:
    """Origin of the weights, in words; empty if timm has no weights."""
    repository, _ = hub_files(spec)
    return f"the hub repository {repository}" if repository else ""


def activation_notes(spec: TeacherSpec) -> list[str]:
    """A note about the model with the other GELU, which loads the same files; empty if timm has no such model."""
    if "_clip_quickgelu" in spec.architecture:
        twin, this, other = spec.architecture.replace("_clip_quickgelu", "_clip", 1), "QuickGELU", "GELU"
    else:
        twin, this, other = spec.architecture.replace("_clip", "_clip_quickgelu", 1), "GELU", "QuickGELU"
    if twin == spec.architecture or not timm.is_model(twin):
        return []
    return [twin_note(spec.name, this, f"timm:{twin}", other)]


def twin_note(name: str, activation: str, twin: str, other: str) -> str:
    """A note about two architectures that load the same file and give different features."""
    return f"{name} has {activation}; weights trained with {other} load into it, but give wrong features: use {twin}"
