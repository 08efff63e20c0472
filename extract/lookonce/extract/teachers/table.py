"""The one table of teacher names, and how any name becomes a spec."""

from __future__ import annotations

from types import ModuleType

from lookonce.extract.teachers.spec import Library, TeacherSpec
from lookonce.shared.errors import UsageError

TEACHERS: dict[str, str] = {
    "clip-b16": "open_clip:ViT-B-16-quickgelu/openai",
    "clip-b32": "open_clip:ViT-B-32-quickgelu/openai",
    "clip-l14": "open_clip:ViT-L-14-quickgelu/openai",
    "dino-s16": "timm:vit_small_patch16_224.dino",
    "dino-b16": "timm:vit_base_patch16_224.dino",
    "dinov2-s14": "timm:vit_small_patch14_dinov2.lvd142m",
    "dinov2-b14": "timm:vit_base_patch14_dinov2.lvd142m",
    "dinov2-l14": "timm:vit_large_patch14_dinov2.lvd142m",
    "dinov2-reg-s14": "timm:vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2-reg-b14": "timm:vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2-reg-l14": "timm:vit_large_patch14_reg4_dinov2.lvd142m",
    "deit-tiny": "timm:deit_tiny_patch16_224.fb_in1k",
    "deit-small": "timm:deit_small_patch16_224.fb_in1k",
    "deit-base": "timm:deit_base_patch16_224.fb_in1k",
    "mae-b16": "timm:vit_base_patch16_224.mae",
    "mae-l16": "timm:vit_large_patch16_224.mae",
    "augreg-b16": "timm:vit_base_patch16_224.augreg_in21k",
}
"""Short names, each standing for a library's own name with its tag pinned."""

FORMS = "timm:NAME[.TAG], open_clip:ARCH/TAG"


def known_teachers() -> tuple[str, ...]:
    """The short names, in the table's order."""
    return tuple(TEACHERS)


def adapter_of(library: Library) -> ModuleType:
    """The adapter module of a library, imported on first use (open_clip takes a while and not everybody needs it)."""
    if library == "timm":
        from lookonce.extract.teachers import timm_adapter

        return timm_adapter
    from lookonce.extract.teachers import open_clip_adapter

    return open_clip_adapter


def resolve_teacher(name: str) -> TeacherSpec:
    """The spec of a teacher's name; reads no weights and needs no network.

    Args:
        name: a short name of the table, ``timm:NAME[.TAG]`` or ``open_clip:ARCH[/TAG]``.

    Raises:
        UsageError: nobody knows the name (the message lists who is known, or who is close).
        TeacherError: the name is known, but is no vision transformer of a kind that can teach.
    """
    library, colon, rest = TEACHERS.get(name, name).partition(":")
    spec: TeacherSpec
    if colon and library == "timm":
        spec = adapter_of("timm").describe(rest)
    elif colon and library == "open_clip":
        spec = adapter_of("open_clip").describe(rest)
    else:
        raise UsageError(f"unknown teacher '{name}': known are {', '.join(TEACHERS)}; or {FORMS}")
    return spec
