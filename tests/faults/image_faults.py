"""Images that vanish, change, or were never whole."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import zarr
from PIL import Image
from scene import Outcome, Scene, ended, receipts_of, told, until, workers_below


def _disturbed(scene: Scene, chance: random.Random, change: str, **changes: object) -> Outcome:
    """Change an image of the second half once the run has begun, put it back afterwards, run again."""
    root, folder = scene.new_root(), scene.folder / "images-of-one-fault"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(scene.images, folder)
    images = sorted(folder.rglob("*.jpg"))
    victim = chance.choice(images[len(images) // 2 :])
    content = victim.read_bytes()
    running = scene.start(root, images=folder, **changes)
    until(lambda: receipts_of(root), running=running)
    running.family()[0].suspend()
    victim.unlink()
    if change == "replaced":
        pixels = np.random.default_rng(1).integers(0, 256, (50, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(victim)
    elif change == "same size":  # another image: same bytes count, other pixels
        middle = len(content) // 2
        victim.write_bytes(content[:middle] + bytes(byte ^ 1 for byte in content[middle:-200]) + content[-200:])
    running.family()[0].resume()
    over = ended(running)
    victim.unlink(missing_ok=True)
    victim.write_bytes(content)
    return scene.outcome(root, told(over), images=folder)


def _largest_difference(left: Path, right: Path, *, rows: int, step: int) -> float:
    """Between the targets of two fp16 caches, over all samples but every ``step``-th."""
    kept = [row for row in range(rows) if row % step != step - 1]
    pairs = ((zarr.open_group(root / seed.name, mode="r") for root in (left, right)) for seed in left.glob("seed-*"))
    return max(
        float(np.abs(np.float32(one["targets"][:][kept]) - np.float32(other["targets"][:][kept])).max())
        for one, other in pairs
    )


def image_deleted(scene: Scene, chance: random.Random) -> Outcome:
    """inline: an image of the second half is deleted after the first shard; then restored, same command again"""
    return _disturbed(scene, chance, "deleted")


def image_replaced(scene: Scene, chance: random.Random) -> Outcome:
    """inline: the same, replaced by another image"""
    return _disturbed(scene, chance, "replaced")


def image_replaced_same_size(scene: Scene, chance: random.Random) -> Outcome:
    """inline: the same, replaced by another image of exactly as many bytes"""
    return _disturbed(scene, chance, "same size")


def corrupt_images(scene: Scene, chance: random.Random) -> Outcome:
    """every 50th JPEG is cut short, empty, text, or has its header zeroed: an inline run, and a Ray run with one of two
    workers killed; their files compared, and every other sample with a run over the sound images (fp16)"""
    folder = scene.folder / "images-of-one-fault"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(scene.images, folder)
    bad = sorted(folder.rglob("*.jpg"))[49::50]
    for position, path in enumerate(bad):
        content = path.read_bytes()
        path.write_bytes([content[: len(content) // 2], b"", b"no image", b"\0" * 64 + content[64:]][position % 4])
    sound, inline, root = scene.new_root(), scene.new_root(), scene.new_root()
    scene.run(sound, precision="fp16")
    over = scene.run(inline, images=folder, precision="fp16")
    running = scene.start(root, images=folder, precision="fp16", executor="ray", workers=2)
    until(lambda: receipts_of(root), running=running)
    chance.choice(workers_below(running.family())).kill()
    disturbed = ended(running)
    holes = {hole["key"] for path in receipts_of(inline) for hole in json.loads(path.read_text())["holes"]}
    right = holes == {str(path.relative_to(folder)) for path in bad}
    seen = [told(over), f"with a worker killed: {told(disturbed)}"]
    seen.append(f"the {len(bad)} corrupt files are holes, no other is" if right else "HOLES ARE OTHERS")
    apart = _largest_difference(sound, inline, rows=len(list(folder.rglob("*.jpg"))), step=50)
    seen.append(f"other samples against the sound run: largest difference {apart:.2g}")
    outcome = scene.outcome(root, *seen, images=folder, precision="fp16", whole=inline)
    for path in (sound, inline):
        shutil.rmtree(path)
    return Outcome(outcome.seen, outcome.same and right and apart < 0.01, outcome.verified)
