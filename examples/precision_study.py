"""What fewer bits and fewer tokens cost the student: the same run from fp16, int8, int4, int2 and `visible` caches.

    python examples/precision_study.py --out precision \
        --teacher-weights ../shared/data/deit_tiny_patch16_224.safetensors [--quick]

The teacher looks once, into an fp16 cache; the others are conversions of it, so that all students see the same views.
A cache of visible tokens fixes one mask a view and seed; the others draw masks anew each epoch.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from study import Judged, Study, Variant, run_study, table, write_results
from study_options import end_with_a_sentence, study_options

from lookonce.cache.convert.conversion import convert_cache
from lookonce.cache.convert.request import ConversionRequest
from lookonce.storage_schemas.arrays import cache_arrays
from lookonce.storage_schemas.recipe import DatasetIdentity, Recipe, TeacherIdentity
from lookonce.storage_schemas.tokens import AllTokens, TokenSubset, VisibleTokens

JPEG_BYTES = 110_000
"""An ImageNet JPEG, on average."""


@dataclass(frozen=True, kw_only=True)
class PrecisionStudy(Study):
    """Flags of the study."""

    cached_seeds: str = "0-3"
    """Views of every image in each cache."""


ALL, VISIBLE = AllTokens(), VisibleTokens(mask="attentive", mask_ratio=0.7)
FEWER = VisibleTokens(mask="attentive", mask_ratio=0.8)


@dataclass(frozen=True, kw_only=True)
class StoredAs:
    """One way to keep the same features."""

    precision: str
    tokens: TokenSubset = ALL

    @property
    def name(self) -> str:
        """Of the cache and the runs."""
        if not isinstance(self.tokens, VisibleTokens):
            return self.precision
        ratio = "" if self.tokens == VISIBLE else f"-{self.tokens.mask_ratio}"
        return f"{self.precision}-visible{ratio}"

    @property
    def clip_b16_bytes(self) -> int:
        """Bytes of a view of CLIP-B/16, five layers, with pixels, counted from the arrays."""
        teacher = TeacherIdentity(
            name="open_clip:ViT-B-16",
            weights_digest="",
            blocks=(8, 9, 10, 11, 12),
            block_count=12,
            width=768,
            input_size=224,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            compute_precision="fp32",
        )
        recipe = Recipe(
            teacher=teacher,
            dataset=DatasetIdentity(samples=1, digest=""),
            view={"size": 224},
            patch_size=16,
            tokens=self.tokens,
        )
        return sum(spec.sample_bytes for spec in cache_arrays(recipe, precision=self.precision, store_pixels=True))


WAYS = (
    StoredAs(precision="fp16"),
    StoredAs(precision="int8"),
    StoredAs(precision="int4"),
    StoredAs(precision="int2"),
    StoredAs(precision="int4", tokens=VISIBLE),
    StoredAs(precision="int2", tokens=VISIBLE),
    StoredAs(precision="int4", tokens=FEWER),
)


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    study = study_options(PrecisionStudy, __doc__, arguments)
    exact = study.extract("fp16", split="train", seeds=study.cached_seeds, precision="fp16")
    caches = [converted(study, exact, way) for way in WAYS]
    variants = [Variant(name=way.name, config=study.training(cache)) for way, cache in zip(WAYS, caches, strict=True)]
    judged = run_study(study, variants, study.held_out())
    write_results(study, {"What a precision costs the student": precision_table(judged)}, {"precision": judged})


def converted(study: Study, exact: Path, way: StoredAs) -> Path:
    """The cache of what an fp16 cache holds, stored another way; itself where that is fp16."""
    if way.precision == "fp16" and way.tokens.keeps_all:
        return exact
    out = study.out / "caches" / way.name
    request = ConversionRequest(precision=way.precision, tokens=None if way.tokens.keeps_all else way.tokens)
    convert_cache(exact, out, request)
    print(f"{way.name}: there", file=sys.stderr, flush=True)
    return out


def precision_table(judged: list[Judged]) -> str:
    """One line a way of storing."""
    heads = [
        "",
        "bytes of a CLIP-B/16 view",
        "in JPEGs",
        "cls, k = 10",
        "k = 20",
        "mean, k = 10",
        "k = 20",
        "held-out loss",
        "on whole views",
    ]
    rows = [
        [
            way.name,
            f"{way.clip_b16_bytes:,}",
            f"{way.clip_b16_bytes / JPEG_BYTES:.2f}",
            *(line.text(f"knn {pool} {k}", 100) for pool in ("cls", "mean") for k in (10, 20)),
            line.text("held-out", digits=4),
            line.text("held-out whole", digits=4),
        ]
        for way, line in zip(WAYS, judged, strict=True)
    ]
    return table(heads, rows)


if __name__ == "__main__":
    end_with_a_sentence(main)
