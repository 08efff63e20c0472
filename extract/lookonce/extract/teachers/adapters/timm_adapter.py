"""timm's vision transformers as teachers."""

from __future__ import annotations

import re
from typing import Any

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lookonce.extract.teachers.adapters.silence import silent_library
from lookonce.extract.teachers.adapters.timm_trunk import TimmTrunk, trunk_of
from lookonce.extract.teachers.hub import TIMM_FILES
from lookonce.extract.teachers.spec import SUPPORTED_TEACHERS, TeacherSpec, rgb
from lookonce.shared.errors import TeacherError, UsageError
from lookonce.shared.names import close_names, did_you_mean


def describe(name: str) -> TeacherSpec:
    """Spec of timm's ``NAME[.TAG]``.

    Raises:
        UsageError: timm has no such model or tag (the message lists close ones).
        TeacherError: it is no vision transformer of a kind that can teach.
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
        # Weights trained with QuickGELU give other features under GELU: take the architecture that has it.
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
    """Side of a patch in pixels: from the name, or, where the name does not tell (test_vit), from the model itself.

    Raises:
        TeacherError: the name does not tell, and the model is no vision transformer of a kind that can teach.
    """
    if match := re.search(r"patch(\d+)", architecture):
        return int(match[1])
    embed: Any = _default_model(architecture, f"timm:{architecture}").patch_embed
    size: int = embed.img_size[0] // embed.grid_size[0]
    return size


def _default_model(architecture: str, name: str) -> VisionTransformer | Eva:
    """The architecture at its own size, on the meta device."""
    with silent_library(), torch.device("meta"):
        model = timm.create_model(architecture, pretrained=False)
    if not isinstance(model, VisionTransformer | Eva):
        raise TeacherError(f"{name} cannot teach: it is a {type(model).__name__}; {SUPPORTED_TEACHERS}")
    return model


def build_trunk(spec: TeacherSpec, input_size: int) -> TimmTrunk:
    """The architecture for square inputs of ``input_size`` pixels, on the meta device: it has no weights yet.

    Raises:
        TeacherError: it is no vision transformer of a kind that can teach, or there is none of that size.
    """
    return build_timm_trunk(spec.architecture, input_size, spec.name)


def build_timm_trunk(architecture: str, input_size: int, name: str, **options: Any) -> TimmTrunk:
    """``build_trunk`` for a timm architecture that the teacher ``name`` is made of, with more of timm's options."""
    # One size is all that is ever fed, so positions need not be made anew for each batch.
    options = {"img_size": input_size, "dynamic_img_size": False, "num_classes": 0, **options}
    try:
        with silent_library(), torch.device("meta"):
            model = timm.create_model(architecture, pretrained=False, **options)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError) as error:
        _default_model(architecture, name)  # which says so, if the class is why
        raise TeacherError(f"{name} cannot teach: timm does not build it for {input_size} px ({error})") from error
    return trunk_of(model, name)


def pretrained_state(spec: TeacherSpec) -> dict[str, Tensor]:
    """Parameters of the pretrained model at its own input size, from the hub or its cache; raises as timm does."""
    with silent_library():
        model = timm.create_model(f"{spec.architecture}.{spec.tag}", pretrained=True, num_classes=0)
    state: dict[str, Tensor] = model.state_dict()
    return state


def hub_files(spec: TeacherSpec) -> tuple[str, tuple[str, ...]]:
    """The hub repository that holds the weights, and the names that they have there; empty when timm knows of none."""
    if not spec.tag:
        return "", ()
    config: Any = timm.models.get_pretrained_cfg(f"{spec.architecture}.{spec.tag}")
    named = getattr(config, "hf_hub_filename", None)
    repository = getattr(config, "hf_hub_id", None) or f"timm/{spec.architecture}.{spec.tag}"
    return str(repository), (named,) if named else TIMM_FILES


def weights_home(spec: TeacherSpec) -> str:
    """Where the weights can be had, in words; empty when timm knows of none."""
    repository, _ = hub_files(spec)
    return f"the hub repository {repository}" if repository else ""


def activation_notes(spec: TeacherSpec) -> list[str]:
    """What to know of a weights file's activation: the model with the other GELU that timm has, in words."""
    if "_clip_quickgelu" in spec.architecture:
        twin, this, other = spec.architecture.replace("_clip_quickgelu", "_clip", 1), "QuickGELU", "GELU"
    else:
        twin, this, other = spec.architecture.replace("_clip", "_clip_quickgelu", 1), "GELU", "QuickGELU"
    if twin == spec.architecture or not timm.is_model(twin):
        return []
    return [twin_note(spec.name, this, f"timm:{twin}", other)]


def twin_note(name: str, activation: str, twin: str, other: str) -> str:
    """Two architectures that the same file fits, and that give other features."""
    return f"{name} has {activation}; weights trained with {other} load into it, but give wrong features: use {twin}"
