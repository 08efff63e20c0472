"""The stage ``step`` of gpu.py: the pairs of step.py, their sizes cut to the time; a round is written when it ends."""

from __future__ import annotations

from dataclasses import replace

from gpu_stage import generated_images, stage
from step import Pair, measure, pairs

ROUNDS, STEPS = 3, 10
SECONDS_A_PAIR = {False: 20.0, True: 60.0}
"""Less time than a pair takes on a GPU, eager or with two compilations."""

DRY = Pair(label="tiny", student="test_vit", teacher="timm:test_vit", batch=4, images=8, steps=1, rounds=1)


def main() -> None:
    with stage("step") as told:
        chosen = [DRY] if told.dry else [replace(pair, rounds=ROUNDS, steps=STEPS) for pair in pairs(False)]
        images = generated_images(told.work / "step-images", DRY.images) if told.dry else None

        def measured(pair: Pair) -> None:
            for kind, name, value in measure(pair, told.work, images):
                (told.result.ratio if kind == "ratio" else told.result.raw)(name, value)

        for pair in chosen:
            told.attempt(pair.label, 0 if told.dry else SECONDS_A_PAIR[pair.compile], lambda pair=pair: measured(pair))


if __name__ == "__main__":
    main()
