"""The input of a run: caches, sample order, masks and batches; ``train-student`` and ``CachedTargets`` share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.replayed_views import ReplayedViews
from lookonce.cache.read.whole_views import JpegViews
from lookonce.shared.canonical import digest_bytes
from lookonce.shared.errors import CacheMismatchError
from lookonce.shared.masking import MASK_VERSION
from lookonce.train.batch_config import BatchConfig
from lookonce.train.data.batch_reader import BatchReader, PixelSource, StoredPixels
from lookonce.train.data.caches.joined_caches import JoinedCaches
from lookonce.train.data.caches.objects_ahead import require_room
from lookonce.train.data.decoded_pixels import DecodedPixels
from lookonce.train.data.host_memory import HostMemory
from lookonce.train.data.mask_choice import MaskChoice, choose_masks
from lookonce.train.data.sample_order import ORDER_VERSION, SampleOrder, ShardWindow
from lookonce.train.data.stochastic_depth import STOCHASTIC_DEPTH_VERSION
from lookonce.train.names import TargetNorm


@dataclass(frozen=True, kw_only=True)
class TrainingInput:
    """Everything that a run reads; the batch of a step is a pure function of it."""

    caches: JoinedCaches
    order: SampleOrder
    masks: MaskChoice
    batches: BatchReader

    @classmethod
    def of(
        cls,
        caches: JoinedCaches,
        config: BatchConfig,
        *,
        target_norm: TargetNorm,
        drop_path: float = 0.0,
        student_depth: int = 0,
        page_locked: bool = False,
    ) -> Self:
        """Wire the input of a run over open caches.

        Args:
            caches: the caches of ``config``, open.
            config: which samples and patches each step gets.
            target_norm: norm of the targets; decides which moments are read.
            drop_path: stochastic depth of the last student block, 0 <= p < 1.
            student_depth: blocks of the student; unused without stochastic depth.
            page_locked: gather batches in page-locked memory, for a GPU.

        Raises:
            CacheMismatchError: the caches lack the patches, moments or pixels that such a run reads.
            SourceError: the images are not those of the first cache.
            UsageError: no sample is left to train on, or --cache-limit is too low.
            StorageError: there is too little room for what is fetched from a URL.
        """
        manifest, root = caches.first.manifest, caches.first.place
        for reader in caches.readers:
            _require_moments(reader, target_norm)
        masks = choose_masks(manifest.recipe, config.mask, config.mask_ratio, root)
        shards = config.window_shards
        order = SampleOrder(
            caches.rows,
            caches.seeds,
            run_seed=config.seed,
            batch_size=config.batch_size,
            epochs=config.epochs,
            window=None if shards is None else ShardWindow(shards=shards, shard_size=manifest.shard_size),
        )
        batches = BatchReader(
            caches,
            _pixel_source(caches.first, config.images),
            mask=masks.kind,
            mask_ratio=masks.ratio,
            run_seed=config.seed,
            target_norm=target_norm,
            drop_path=drop_path,
            student_depth=student_depth,
            memory=HostMemory(page_locked=page_locked),
        )
        require_room(caches, batches.arrays, order, threads=config.workers)
        return cls(caches=caches, order=order, masks=masks, batches=batches)

    def document(self) -> dict[str, Any]:
        """What decides the samples and masks of every step, beside the run's own settings; equal when resumed."""
        window = self.order.window
        manifests, rows = [reader.manifest for reader in self.caches.readers], self.caches.rows
        return {
            "cache_fingerprints": [manifest.recipe.fingerprint for manifest in manifests],
            "cache_precisions": [manifest.encoding.precision for manifest in manifests],
            "cache_encodings": [manifest.encoding.digest for manifest in manifests],
            "samples": len(rows),
            "rows_digest": digest_bytes(rows.astype("<i8").tobytes()),
            "order_version": ORDER_VERSION,
            "mask_version": MASK_VERSION,
            "stochastic_depth_version": STOCHASTIC_DEPTH_VERSION,
            "block_order": None if window is None else window.document(),
        }


def _require_moments(reader: CacheReader, target_norm: TargetNorm) -> None:
    recipe = reader.manifest.recipe
    if target_norm != "whiten" and reader.manifest.moments == "none":
        raise CacheMismatchError(
            f"{reader.place}: --target-norm {target_norm} needs the mean and standard deviation of tokens, and this "
            "cache was made with --moments none; use --target-norm whiten, or extract with --moments float16"
        )
    if target_norm == "bn" and not recipe.tokens.keeps_all:
        raise CacheMismatchError(
            f"{reader.place}: --target-norm bn needs mean and std of every token of a view, this cache stores "
            f"{recipe.stored_patches} of {recipe.patches} patches; use another --target-norm, or extract with "
            "--tokens all"
        )


def _pixel_source(reader: CacheReader, images: str | None) -> PixelSource:
    """Views as stored, or replayed from their images if the cache has no pixels."""
    if reader.manifest.pixels == "store":
        return StoredPixels(reader)
    if reader.manifest.pixels == "jpeg":
        return DecodedPixels(reader, JpegViews(reader))
    if images is None:
        raise CacheMismatchError(
            f"{reader.place}: this cache was made with --pixels none, so it does not contain the views; "
            "give the images it was made from with --images SOURCE"
        )
    return DecodedPixels(reader, ReplayedViews(reader, images))
