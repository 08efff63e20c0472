"""The table of teacher names, and the spec of any name."""

from __future__ import annotations

from types import ModuleType

from lookonce.extract.teachers.spec import Library, TeacherSpec
from lookonce.shared.errors import UsageError
from lookonce.shared.names import unknown_name

TEACHERS: dict[str, str] = {
    "clip-b16": "open_clip:ViT-B-16-quickgelu/openai",
    "clip-b32": "open_clip:ViT-B-32-quickgelu/openai",
    "clip-l14": "open_clip:ViT-L-14-quickgelu/openai",
    "clip-l14-336": "open_clip:ViT-L-14-336-quickgelu/openai",
    "laion-b16": "open_clip:ViT-B-16/laion2b_s34b_b88k",
    "laion-l14": "open_clip:ViT-L-14/laion2b_s32b_b82k",
    "laion-h14": "open_clip:ViT-H-14/laion2b_s32b_b79k",
    "datacomp-b16": "open_clip:ViT-B-16/datacomp_xl_s13b_b90k",
    "datacomp-l14": "open_clip:ViT-L-14/datacomp_xl_s13b_b90k",
    "siglip-b16": "timm:vit_base_patch16_siglip_224.webli",
    "siglip2-b16": "timm:vit_base_patch16_siglip_224.v2_webli",
    "siglip2-l16": "timm:vit_large_patch16_siglip_256.v2_webli",
    "siglip2-so400m14": "timm:vit_so400m_patch14_siglip_224.v2_webli",
    "eva02-b16": "open_clip:EVA02-B-16/merged2b_s8b_b131k",
    "eva02-l14": "open_clip:EVA02-L-14/merged2b_s4b_b131k",
    "dino-s16": "timm:vit_small_patch16_224.dino",
    "dino-b16": "timm:vit_base_patch16_224.dino",
    "dinov2-s14": "timm:vit_small_patch14_dinov2.lvd142m",
    "dinov2-b14": "timm:vit_base_patch14_dinov2.lvd142m",
    "dinov2-l14": "timm:vit_large_patch14_dinov2.lvd142m",
    "dinov2-g14": "timm:vit_giant_patch14_dinov2.lvd142m",
    "dinov2-reg-s14": "timm:vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2-reg-b14": "timm:vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2-reg-l14": "timm:vit_large_patch14_reg4_dinov2.lvd142m",
    "dinov2-reg-g14": "timm:vit_giant_patch14_reg4_dinov2.lvd142m",
    "dinov3-s16": "timm:vit_small_patch16_dinov3.lvd1689m",
    "dinov3-b16": "timm:vit_base_patch16_dinov3.lvd1689m",
    "dinov3-l16": "timm:vit_large_patch16_dinov3.lvd1689m",
    "deit-tiny": "timm:deit_tiny_patch16_224.fb_in1k",
    "deit-small": "timm:deit_small_patch16_224.fb_in1k",
    "deit-base": "timm:deit_base_patch16_224.fb_in1k",
    "mae-b16": "timm:vit_base_patch16_224.mae",
    "mae-l16": "timm:vit_large_patch16_224.mae",
    "augreg-s16": "timm:vit_small_patch16_224.augreg_in21k",
    "augreg-b16": "timm:vit_base_patch16_224.augreg_in21k",
    "augreg-l16": "timm:vit_large_patch16_224.augreg_in21k",
}
"""Short name -> name of the library, with a fixed tag."""

_DEFAULT_TAGS = frozenset({"fb_in1k", "lvd142m", "lvd1689m", "v2_webli"})
"""Tags of the table that are timm's defaults for their models, and therefore not part of their names in recipes."""

FORMS = "timm:NAME[.TAG], open_clip:ARCH/TAG"


def known_teachers() -> tuple[str, ...]:
    """The short names, in the table's order."""
    return tuple(TEACHERS)


def recipe_name(name: str) -> str:
    """The name of a teacher in recipes; reads no weights, and imports nothing for a short name of the table.

    Raises:
        UsageError: unknown name.

    >>> recipe_name("deit-tiny"), recipe_name("clip-b16")
    ('timm:deit_tiny_patch16_224', 'open_clip:ViT-B-16-quickgelu/openai')
    """
    if name not in TEACHERS:
        return resolve_teacher(name).name
    architecture, _, tag = TEACHERS[name].partition(".")
    return architecture if tag in _DEFAULT_TAGS else TEACHERS[name]


def adapter_of(library: Library) -> ModuleType:
    """The adapter module of a library; imported on first use, because importing open_clip takes a while."""
    if library == "timm":
        from lookonce.extract.teachers.adapters import timm_adapter

        return timm_adapter
    from lookonce.extract.teachers.adapters import open_clip_adapter

    return open_clip_adapter


def resolve_teacher(name: str) -> TeacherSpec:
    """The spec of a teacher's name; reads no weights and needs no network.

    Args:
        name: a short name of the table, ``timm:NAME[.TAG]`` or ``open_clip:ARCH[/TAG]``.

    Raises:
        UsageError: unknown name (the message lists known or similar names).
        TeacherError: the model is not a supported vision transformer.
    """
    library, rest = teacher_library(name)
    spec: TeacherSpec = adapter_of(library).describe(rest)
    return spec


def teacher_library(name: str) -> tuple[Library, str]:
    """The library of a teacher and the library's name for it; imports neither.

    Raises:
        UsageError: the name is not in the table and has none of the known forms.
    """
    library, colon, rest = TEACHERS.get(name, name).partition(":")
    if colon and library == "timm":
        return "timm", rest
    if colon and library == "open_clip":
        return "open_clip", rest
    raise UsageError(f"{unknown_name('teacher', name, TEACHERS)}; or {FORMS}")
