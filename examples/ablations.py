"""The ablations of the paper (MaskAlign, arXiv 2211.08887), at any scale, one table each.

    python examples/ablations.py --out ablations \
        --teacher-weights ../shared/data/deit_tiny_patch16_224.safetensors [--quick]

The default is small: views of 112 px, 24 epochs, two CPU cores. It scales up by flags: ``--view-size 224 --epochs 200
--teacher clip-b16 --student vit_base_patch16_224 --images /data/imagenet --run-seeds 0-2``. ``--only masks,adapters``
makes some of the tables. Finished runs are not repeated, so a larger study continues a smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study import Judged, Study, Variant, run_study, table, write_results
from study_options import end_with_a_sentence, study_options

from lookonce.api import UsageError

BASE: dict[str, Any] = {}
"""Choices of the released recipe, which are the defaults of train-student."""

ABLATIONS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "alignment": (
        "Layer-wise against dynamic alignment",
        {"dynamic": BASE, "layer-wise": {"alignment": "layerwise"}},
    ),
    "masks": (
        "Masks",
        {
            "none": {"mask": "random", "mask_ratio": 0.0},
            **{
                f"{kind} {ratio}": BASE if (kind, ratio) == ("attentive", 0.7) else {"mask": kind, "mask_ratio": ratio}
                for ratio in (0.5, 0.7, 0.9)
                for kind in ("random", "attentive", "hide-attentive")
            },
        },
    ),
    "adapters": (
        "Adapters",
        {"linear": BASE, **{name: {"adapter": name} for name in ("norm-linear", "mlp", "mlp2")}},
    ),
    "layers": (
        "Layer weights",
        {"top5": BASE, **{name: {"layer_weights": name} for name in ("out", "top3", "mean", "linear-decay", "mid5")}},
    ),
    "order": (
        "Mix order",
        {"adapt, then mix": BASE, "mix, then adapt": {"mix_order": "mix-then-adapt"}},
    ),
}
"""Name of a table -> its title, and the changes to the recipe of each row; equal rows share one run."""


@dataclass(frozen=True, kw_only=True)
class AblationStudy(Study):
    """Flags of the study."""

    cached_seeds: str = "0-7"
    """Augmentation seeds of the cache."""
    only: str = ",".join(ABLATIONS)
    """Tables to make."""

    def tables(self) -> list[str]:
        """Names of the tables to make.

        Raises:
            UsageError: a name is unknown; the message lists the known ones.
        """
        names = [name.strip() for name in self.only.split(",")]
        for name in names:
            if name not in ABLATIONS:
                raise UsageError(f"--only: unknown table {name!r}; known: {', '.join(ABLATIONS)}")
        return names


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    study = study_options(AblationStudy, __doc__, arguments)
    names = study.tables()
    cache = study.extract("views", split="train", seeds=study.cached_seeds, precision="int8", layers="all")
    wanted = {run_name(changes): changes for name in names for changes in ABLATIONS[name][1].values()}
    variants = [Variant(name=name, config=study.training(cache, **changes)) for name, changes in wanted.items()]
    judged = dict(zip(wanted, run_study(study, variants, study.held_out(layers="all")), strict=True))
    groups = {name: _lines(name, judged) for name in names}
    tables = {ABLATIONS[name][0]: ablation_table(groups[name]) for name in names}
    write_results(study, tables, {name: list(lines.values()) for name, lines in groups.items()})


def run_name(changes: Mapping[str, Any]) -> str:
    """Name of the runs with these changes, for their folders."""
    return "_".join(f"{name}-{value}" for name, value in changes.items()) or "base"


def _lines(name: str, judged: Mapping[str, Judged]) -> dict[str, Judged]:
    return {label: judged[run_name(changes)] for label, changes in ABLATIONS[name][1].items()}


def ablation_table(lines: Mapping[str, Judged]) -> str:
    """One row per variant."""
    heads = ["", "cls, k = 10", "k = 20", "mean, k = 10", "k = 20", "loss on test views", "of the last block"]
    rows = [
        [
            label,
            *(line.text(f"knn {pool} {k}", 100) for pool in ("cls", "mean") for k in (10, 20)),
            line.text("held-out", digits=4),
            line.text("held-out last", digits=4),
        ]
        for label, line in lines.items()
    ]
    return table(heads, rows)


if __name__ == "__main__":
    end_with_a_sentence(main)
