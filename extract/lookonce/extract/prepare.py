"""Before the first shard: the images, the cache at ``--out`` and its recipe, and the shards that remain."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lookonce.cache.committed import remaining_shards
from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.write.create import check_same_recipe, create_cache, existing_manifest, prepare_seed
from lookonce.catalogue.catalogue import same_recipe
from lookonce.catalogue.listing import seeds_text
from lookonce.extract.calibration import calibrate
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.image_selection import labels_sentence, select_images
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.extract.reuse.cached_images import CachedImages
from lookonce.extract.reuse.earlier_cache import Reuse, compare_images, copy_obstacles, describe_reuse, open_earlier
from lookonce.extract.teachers import Teacher, load_teacher, resolve_teacher
from lookonce.extract.teachers.compiled import choose_forward
from lookonce.extract.teachers.teacher import Precision as ComputePrecision
from lookonce.extract.versions import content_versions
from lookonce.extract.views.image_views import CroppedViews, ViewProducer
from lookonce.extract.views.stored_views import StoredViews
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.errors import CacheError, UsageError
from lookonce.shared.normalisation import Normalisation
from lookonce.shared.sources import NO_LABEL, ImageSource, Listing, open_source
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.arrays import cache_arrays
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import automatic_percent
from lookonce.storage_schemas.recipe import (
    IMPORTANCE,
    POOL_IMPORTANCE,
    DatasetIdentity,
    Recipe,
    TeacherIdentity,
    document_differences,
)

BATCH_SIZES = {"cpu": 32, "cuda": 256}
"""Default views per forward pass: more do not help a CPU; with fewer, a GPU waits for the next launch."""

FEWEST_CORES = 4
"""Cores of a worker from which views are made in processes; threads keep about so many busy."""

SEEDS_PER_TASK = 16
"""Most seeds of one task, for which each image is decoded once; bounds the memory and the open files of the task."""


@dataclass(frozen=True)
class Extraction:
    """An extraction whose images are listed: everything that workers need, except the manifest."""

    config: ExtractionConfig
    view: ViewRecipe
    source: ImageSource
    listing: Listing
    dataset: DatasetIdentity
    reuse: Reuse | None = None


def open_extraction(config: ExtractionConfig) -> Extraction:
    """Open the source and list its images, and open the cache to reuse.

    Raises:
        SourceError: the source is missing or empty.
        CacheError: the cache of ``--reuse`` is missing, incomplete or damaged, or contains nothing of this extraction.
        UsageError: without ``--images``, the cache of ``--reuse`` lacks a seed.
    """
    view, earlier = config.view_recipe, None
    if config.reuse is not None:
        root = config.reuse.expanduser().absolute()
        earlier = open_earlier(root, parse_seeds(config.seeds), view, config.patch_size)
        if config.images is None:
            return _from_earlier_cache(config, view, earlier)
    source = open_source(config.images or "")
    everything = source.listing(refresh=config.relist)
    listing = select_images(config, everything)
    dataset = DatasetIdentity(samples=len(listing), digest=listing.digest)
    reuse = compare_images(earlier, everything, config.images or "") if earlier is not None else None
    return Extraction(config, view, source, listing, dataset, reuse)


def _from_earlier_cache(config: ExtractionConfig, view: ViewRecipe, earlier: CacheReader) -> Extraction:
    """An extraction without images: of the views that an earlier cache stores."""
    missing = [str(seed) for seed in parse_seeds(config.seeds) if seed not in earlier.seeds]
    if missing:
        raise UsageError(
            f"--reuse {earlier.root}: it has no views of seeds {', '.join(missing)}, and these can only be cropped "
            "from the images; give --images, or other --seeds"
        )
    source, dataset = CachedImages.from_reader(earlier), earlier.manifest.recipe.dataset
    reuse = Reuse(root=earlier.root, seeds=earlier.seeds, samples=dataset.samples, unchanged=True)
    listing = source.listing()
    print(labels_sentence(listing), file=sys.stderr, flush=True)
    return Extraction(config, view, source, listing, dataset, reuse)


def resolve_compute_precision(precision: Literal["auto"] | ComputePrecision, device: torch.device) -> ComputePrecision:
    """``auto`` is fp32 on a CPU and fp16 on a GPU."""
    if precision == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    return precision


def resolve_batch_size(batch_size: int | None, device: torch.device) -> int:
    """Views per forward pass: the requested number, or the default of the device."""
    return batch_size or BATCH_SIZES[device.type]


def resolve_view_processes(wanted: str, device: torch.device, cores: int) -> int:
    """Processes that make views for one worker: the requested number, or the default of the device.

    Args:
        wanted: ``auto`` or a number.
        device: of the teacher; on CPUs, it keeps the cores busy, and threads are enough.
        cores: CPU cores of the worker.
    """
    if wanted != "auto":
        return int(wanted)
    return cores if device.type == "cuda" and cores >= FEWEST_CORES else 0


def load_config_teacher(config: ExtractionConfig, device: torch.device, *, quiet: bool = False) -> Teacher:
    """Load the teacher of a config.

    Args:
        config: of the extraction.
        device: of the teacher.
        quiet: print nothing on standard error, for example because another process does.

    Raises:
        UsageError: unknown name or blocks.
        TeacherError: its weights are not available or do not fit.
    """
    spec = resolve_teacher(config.teacher)
    own = Normalisation(mean=spec.mean, std=spec.std)
    return load_teacher(
        spec,
        weights=config.teacher_weights,
        view_size=config.view_size,
        patch_size=config.patch_size,
        blocks=config.layers,
        device=device,
        precision=resolve_compute_precision(config.compute_precision, device),
        normalisation=own.replaced(config.mean, config.std),
        quiet=quiet,
    )


def build_recipe(extraction: Extraction, teacher: Teacher) -> Recipe:
    """The recipe of an extraction, from which its fingerprint is computed."""
    identity = TeacherIdentity(
        name=teacher.spec.name,
        weights_digest=teacher.weights_digest,
        blocks=teacher.blocks,
        block_count=teacher.block_count,
        width=teacher.width,
        input_size=teacher.input_size,
        mean=teacher.spec.mean,
        std=teacher.spec.std,
        compute_precision=teacher.precision,
        first_token="class" if teacher.has_class_token else "patch-mean",
    )
    return Recipe(
        teacher=identity,
        dataset=extraction.dataset,
        view=extraction.view.document(),
        patch_size=extraction.config.patch_size,
        tokens=extraction.config.token_subset,
        importance=POOL_IMPORTANCE if teacher.attention_pool else IMPORTANCE,
    )


def open_or_create(extraction: Extraction, teacher: Teacher) -> Manifest:
    """The manifest of the cache at ``--out``: of the existing cache if it fits, else of a new, calibrated one.

    If stored values of an earlier cache can be copied, the new cache takes over its calibration.

    Raises:
        RecipeMismatchError: the existing cache has another recipe; it is left untouched.
        CacheError: the existing cache has another precision or container, or no pixels; or nothing can be copied from
            the cache of ``--reuse``.
    """
    config, reuse = extraction.config, extraction.reuse
    recipe, versions = build_recipe(extraction, teacher), content_versions(teacher.spec.library)
    found = manifest_to_complete(config, recipe, extraction.listing)
    producer: ViewProducer = CroppedViews(extraction.source, extraction.view)
    if reuse is not None:
        earlier = CacheLayout(reuse.root).load_manifest()
        same = automatic_percent(config.precision) is not None or earlier.encoding.precision == config.precision
        encoding = earlier.encoding if same else Encoding(precision=config.precision, parameters={})
        taking = found or new_manifest(extraction, recipe, encoding, versions)
        print(describe_reuse(reuse, earlier, taking, config.images), file=sys.stderr, flush=True)
        if found is None and not copy_obstacles(earlier, taking):
            create_cache(config.out, taking)
            return taking
        producer, _ = reuse.open(taking, producer)
        if isinstance(producer, StoredViews) and config.view_processes not in ("auto", "0"):
            unused = f"--view-processes {config.view_processes} changes nothing: threads read the views of {reuse.root}"
            print(f"note: {unused}", file=sys.stderr, flush=True)
    if found is not None:
        _note_kept_calibration(config, found)
        return found
    if reuse is None and (note := same_recipe_note(recipe, config.out)):
        print(f"note: {note}", file=sys.stderr, flush=True)
    encoding = calibrate(
        config.precision,
        teacher,
        producer,
        extraction.listing.entries,
        recipe,
        seed=parse_seeds(config.seeds)[0],
        views=config.calibration_views,
    )
    forward = choose_forward(
        teacher,
        config.compile,
        batch_size=resolve_batch_size(config.batch_size, teacher.mean.device),
        views=len(extraction.listing) * len(parse_seeds(config.seeds)),
    )
    manifest = new_manifest(extraction, recipe, encoding, versions | forward)
    create_cache(config.out, manifest)
    return manifest


def manifest_to_complete(config: ExtractionConfig, recipe: Recipe, listing: Listing) -> Manifest | None:
    """The manifest of the cache at ``--out`` that this extraction completes; None if there is no cache yet.

    Args:
        config: of the extraction.
        recipe: of the extraction.
        listing: of its images.

    Raises:
        RecipeMismatchError: the existing cache has another recipe.
        CacheError: the existing cache has another precision or container, no pixels, or other classes, or ``--out`` is
            not a cache.
    """
    found = existing_manifest(config.out)
    if found is not None:
        differing = [path for path, _, _ in document_differences(found.recipe.document(), recipe.document())]
        other_views = any(path.startswith(("view.", "patch_size")) for path in differing)
        reuse = "" if other_views else f" (with --reuse {config.out}, the same views are not extracted again)"
        advice = f"choose another --out{reuse}, or the arguments it was made with"
        check_same_recipe(config.out, found.recipe, recipe, advice=advice)
        _check_same_storage(config, found)
        _check_same_classes(config, found, listing)
    return found


def new_manifest(extraction: Extraction, recipe: Recipe, encoding: Encoding, versions: dict[str, str]) -> Manifest:
    """The manifest of a new cache."""
    config = extraction.config
    arrays = cache_arrays(
        recipe, precision=encoding.precision, store_pixels=config.pixels != "none", moments=config.moments
    )
    shard_size = config.shard_size or min(1024, max(16, -(-len(extraction.listing) // 64)))
    return Manifest(
        recipe=recipe,
        encoding=encoding,
        container=config.format,
        shard_size=shard_size,
        arrays=arrays,
        classes=extraction.listing.classes,
        created_with=versions,
    )


def _check_same_storage(config: ExtractionConfig, found: Manifest) -> None:
    pairs = {
        "--precision": (found.encoding.precision, _asked_precision(config, found)),
        "--format": (found.container, config.format),
        "--pixels": (found.pixels, config.pixels),
        "--moments": (found.moments, config.moments),
    }
    if config.shard_size is not None:
        pairs["--shard-size"] = (str(found.shard_size), str(config.shard_size))
    for flag, (existing, requested) in pairs.items():
        if existing != requested:
            raise CacheError(
                f"{config.out}: this cache was made with {flag} {existing}, this run asks for {flag} {requested}; "
                f"it is left untouched: choose another --out, or {flag} {existing}"
            )


def same_recipe_note(recipe: Recipe, out: Path) -> str | None:
    """A sentence about caches of the same recipe in the catalogue, other than the one at ``out``."""
    found = same_recipe(recipe.fingerprint, other_than=out)
    if not found:
        return None
    listed = "; ".join(f"{one.place} ({one.precision}, seeds {seeds_text(one)})" for one in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return (
        f"the catalogue has this recipe already: {listed}{more}; train from it, or give "
        f"--reuse {found[0].place} to copy what it has"
    )


def _asked_precision(config: ExtractionConfig, found: Manifest) -> str:
    """The precision of the config; that of the existing cache if it was chosen automatically."""
    if automatic_percent(config.precision) is None:
        return config.precision
    print(
        f"note: --precision {config.precision}: {config.out} was created with {found.encoding.precision}, which stays",
        file=sys.stderr,
        flush=True,
    )
    return found.encoding.precision


def _note_kept_calibration(config: ExtractionConfig, found: Manifest) -> None:
    default = ExtractionConfig.__dataclass_fields__["calibration_views"].default
    if found.encoding.parameters and config.calibration_views != default:
        print(
            f"note: --calibration-views {config.calibration_views} changes nothing: {config.out} was calibrated when "
            "it was created, and all its shards have the same scales",
            file=sys.stderr,
            flush=True,
        )


def _check_same_classes(config: ExtractionConfig, found: Manifest, listing: Listing) -> None:
    """Refuse labels with another meaning than in the cache; the recipe does not contain labels."""
    if found.classes == listing.classes:
        return
    for label in sorted({entry.label for entry in listing.entries} - {NO_LABEL}):
        there, now = found.classes[label : label + 1], listing.classes[label]
        if there != (now,):
            raise CacheError(
                f"{config.out}: label {label} is {there[0] if there else 'no class'!r} in this cache and {now!r} in "
                "the images as they are now; it is left untouched: choose another --out, or give the images the "
                "classes they had"
            )


def remaining_tasks(
    root: Path, manifest: Manifest, seeds: Sequence[int], listing: Listing, reuse: Reuse | None = None
) -> list[ShardTask]:
    """Prepare the folders of the seeds and list the shards that are not committed; see ``remaining_shards``.

    Invalid receipts are removed. Seeds of an earlier cache get tasks of their own, because samples are copied for all
    seeds of a task or for none.
    """
    for seed in seeds:
        prepare_seed(root, manifest, seed)
    remaining = set(remaining_shards(CacheLayout(root), manifest, seeds, remove_invalid_receipts=True))
    tasks: list[ShardTask] = []
    reused = [seed for seed in seeds if reuse is not None and seed in reuse.seeds]
    for shard in range(manifest.shard_count):
        rows = manifest.shard_rows(shard)
        entries = listing.entries[rows.start : rows.stop]
        for group in (reused, [seed for seed in seeds if seed not in reused]):
            missing = tuple(seed for seed in group if (seed, shard) in remaining)
            tasks.extend(
                ShardTask(shard, missing[start : start + SEEDS_PER_TASK], rows, entries)
                for start in range(0, len(missing), SEEDS_PER_TASK)
            )
    return tasks
