"""What users of lookonce import: ``from lookonce.api import extract_features, ExtractionConfig, ...``.

Importing this module is fast: torch, timm and Ray are imported with the first name that needs them.
Names that are not listed here are not public and may change in any release.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lookonce.cache.compare.difference import CacheDifference, compare_caches
    from lookonce.cache.convert.conversion import ConversionSummary, convert_cache
    from lookonce.cache.convert.request import ConversionRequest
    from lookonce.cache.merge.merging import MergeSummary, merge_caches
    from lookonce.cache.read.reader import CacheReader, open_cache
    from lookonce.cache.show.description import describe_cache
    from lookonce.cache.show.facts import CacheFacts
    from lookonce.cache.show.picture import draw_cache
    from lookonce.cache.verify.findings import Finding, VerifyReport
    from lookonce.cache.verify.verification import verify_cache
    from lookonce.cache.zarr_plugin.decoded_group import open_decoded
    from lookonce.catalogue.catalogue import Catalogue, open_catalogue
    from lookonce.catalogue.entry import CatalogueEntry
    from lookonce.catalogue.pins import pin_cache, unpin_cache
    from lookonce.catalogue.query import CacheQuery
    from lookonce.catalogue.removal import RemovalSummary, remove_cache, remove_seeds
    from lookonce.clusters.extraction.run import extract_features
    from lookonce.extract.config import ExtractionConfig
    from lookonce.extract.summary import ExtractionSummary
    from lookonce.extract.teachers import Teacher, TeacherFeatures, load_teacher, resolve_teacher
    from lookonce.reports.drift.check import DriftRequest, check_drift
    from lookonce.reports.drift.report import DriftReport
    from lookonce.reports.plan.plan import Purpose
    from lookonce.reports.plan.plan import plan_extraction as plan
    from lookonce.reports.plan.report import Plan
    from lookonce.shared.config_values import parse_seeds
    from lookonce.shared.errors import (
        AccessError,
        BusyError,
        CacheError,
        CacheMismatchError,
        CheckpointError,
        DistributedError,
        EndedElsewhereError,
        HeadLostError,
        IncompleteCacheError,
        IntegrityError,
        Interrupted,
        LookonceError,
        MachineError,
        NumericalError,
        RayStartError,
        RecipeMismatchError,
        SchemaError,
        SourceError,
        StorageError,
        StoreError,
        TeacherError,
        UnreadableImageError,
        UsageError,
        WeightsError,
        WorkerLostError,
    )
    from lookonce.shared.patches import unpatchify
    from lookonce.shared.sources import open_source
    from lookonce.storage_schemas.tokens import AllTokens, TopTokens, VisibleTokens
    from lookonce.stores.describe_url import describe_url
    from lookonce.stores.pull import PullConfig, PullSummary, pull_cache
    from lookonce.stores.push import PushConfig, PushSummary, push_cache
    from lookonce.stores.verify_url import verify_url
    from lookonce.train.batch_config import BatchConfig
    from lookonce.train.cached_targets import CachedTargets, TargetBatch
    from lookonce.train.checkpoints.trained_alignment import load_alignment
    from lookonce.train.config import TrainingConfig
    from lookonce.train.evaluation.encoders.encoder import Encoder, PatchEncoder, encode_split
    from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder, load_student
    from lookonce.train.evaluation.encoders.teacher_encoder import TeacherEncoder
    from lookonce.train.evaluation.finetune.fine_tuning import FinetuneResult, finetune_student
    from lookonce.train.evaluation.finetune.finetune_config import FinetuneConfig
    from lookonce.train.evaluation.knn import KnnResult, evaluate_knn, knn_predict
    from lookonce.train.evaluation.labelled_images import LabelledImages, open_labelled_images
    from lookonce.train.evaluation.linear_probe.linear import LinearResult, evaluate_linear
    from lookonce.train.evaluation.linear_probe.probe_config import LinearProbeConfig
    from lookonce.train.evaluation.segmentation.masked_images import MaskedSplit, open_masked_images
    from lookonce.train.evaluation.segmentation.segment import SegmentResult, evaluate_segmentation
    from lookonce.train.evaluation.segmentation.segment_config import SegmentConfig
    from lookonce.train.model.alignment import AlignmentOutput, DynamicAlignment
    from lookonce.train.model.alignment_config import AlignmentConfig
    from lookonce.train.model.student import Student
    from lookonce.train.model.student_file import save_student
    from lookonce.train.recipes import recipe_config
    from lookonce.train.records.metrics import read_metrics
    from lookonce.train.run import train_student
    from lookonce.train.summary import SweepSummary, TrainingSummary
    from lookonce.train.sweep.lockstep import train_sweep

_MODULES = {
    "lookonce.cache.convert.conversion": "ConversionSummary convert_cache",
    "lookonce.cache.convert.request": "ConversionRequest",
    "lookonce.cache.show.description": "describe_cache",
    "lookonce.cache.show.facts": "CacheFacts",
    "lookonce.cache.show.picture": "draw_cache",
    "lookonce.cache.compare.difference": "CacheDifference compare_caches",
    "lookonce.cache.merge.merging": "MergeSummary merge_caches",
    "lookonce.cache.read.reader": "CacheReader open_cache",
    "lookonce.cache.verify.verification": "verify_cache",
    "lookonce.cache.verify.findings": "Finding VerifyReport",
    "lookonce.cache.zarr_plugin.decoded_group": "open_decoded",
    "lookonce.extract.config": "ExtractionConfig",
    "lookonce.reports.drift.check": "DriftRequest check_drift",
    "lookonce.reports.drift.report": "DriftReport",
    "lookonce.catalogue.catalogue": "Catalogue open_catalogue",
    "lookonce.catalogue.entry": "CatalogueEntry",
    "lookonce.catalogue.pins": "pin_cache unpin_cache",
    "lookonce.catalogue.query": "CacheQuery",
    "lookonce.catalogue.removal": "RemovalSummary remove_cache remove_seeds",
    "lookonce.clusters.extraction.run": "extract_features",
    "lookonce.reports.plan.plan": "Purpose plan_extraction:plan",
    "lookonce.reports.plan.report": "Plan",
    "lookonce.extract.summary": "ExtractionSummary",
    "lookonce.extract.teachers": "Teacher TeacherFeatures load_teacher resolve_teacher",
    "lookonce.shared.config_values": "parse_seeds",
    "lookonce.shared.errors": (
        "AccessError BusyError CacheError CacheMismatchError CheckpointError DistributedError EndedElsewhereError "
        "HeadLostError IncompleteCacheError IntegrityError Interrupted LookonceError MachineError NumericalError "
        "RayStartError RecipeMismatchError SchemaError SourceError StorageError StoreError TeacherError "
        "UnreadableImageError UsageError WeightsError WorkerLostError"
    ),
    "lookonce.shared.patches": "unpatchify",
    "lookonce.shared.sources": "open_source",
    "lookonce.storage_schemas.tokens": "AllTokens TopTokens VisibleTokens",
    "lookonce.stores.describe_url": "describe_url",
    "lookonce.stores.pull": "PullConfig PullSummary pull_cache",
    "lookonce.stores.push": "PushConfig PushSummary push_cache",
    "lookonce.stores.verify_url": "verify_url",
    "lookonce.train.model.alignment": "AlignmentOutput DynamicAlignment",
    "lookonce.train.model.alignment_config": "AlignmentConfig",
    "lookonce.train.batch_config": "BatchConfig",
    "lookonce.train.cached_targets": "CachedTargets TargetBatch",
    "lookonce.train.checkpoints.trained_alignment": "load_alignment",
    "lookonce.train.config": "TrainingConfig",
    "lookonce.train.evaluation.encoders.encoder": "Encoder PatchEncoder encode_split",
    "lookonce.train.evaluation.finetune.fine_tuning": "FinetuneResult finetune_student",
    "lookonce.train.evaluation.finetune.finetune_config": "FinetuneConfig",
    "lookonce.train.evaluation.knn": "KnnResult evaluate_knn knn_predict",
    "lookonce.train.evaluation.labelled_images": "LabelledImages open_labelled_images",
    "lookonce.train.evaluation.linear_probe.linear": "LinearResult evaluate_linear",
    "lookonce.train.evaluation.linear_probe.probe_config": "LinearProbeConfig",
    "lookonce.train.evaluation.segmentation.masked_images": "MaskedSplit open_masked_images",
    "lookonce.train.evaluation.segmentation.segment": "SegmentResult evaluate_segmentation",
    "lookonce.train.evaluation.segmentation.segment_config": "SegmentConfig",
    "lookonce.train.evaluation.encoders.student_encoder": "StudentEncoder load_student",
    "lookonce.train.evaluation.encoders.teacher_encoder": "TeacherEncoder",
    "lookonce.train.records.metrics": "read_metrics",
    "lookonce.train.recipes": "recipe_config",
    "lookonce.train.run": "train_student",
    "lookonce.train.summary": "SweepSummary TrainingSummary",
    "lookonce.train.model.student": "Student",
    "lookonce.train.model.student_file": "save_student",
    "lookonce.train.sweep.lockstep": "train_sweep",
}
"""Module -> its public names (``name:public`` if they differ); a test compares them with the imports above."""

_SOURCES: dict[str, tuple[str, str]] = {
    entry.rpartition(":")[2]: (module, entry.partition(":")[0])
    for module, names in _MODULES.items()
    for entry in names.split()
}
"""Public name -> module and name there."""

__all__ = [
    "AccessError",
    "AlignmentConfig",
    "AlignmentOutput",
    "AllTokens",
    "BatchConfig",
    "BusyError",
    "CacheDifference",
    "CacheError",
    "CacheFacts",
    "CacheMismatchError",
    "CacheQuery",
    "CacheReader",
    "CachedTargets",
    "Catalogue",
    "CatalogueEntry",
    "CheckpointError",
    "ConversionRequest",
    "ConversionSummary",
    "DistributedError",
    "DriftReport",
    "DriftRequest",
    "DynamicAlignment",
    "Encoder",
    "EndedElsewhereError",
    "ExtractionConfig",
    "ExtractionSummary",
    "Finding",
    "FinetuneConfig",
    "FinetuneResult",
    "HeadLostError",
    "IncompleteCacheError",
    "IntegrityError",
    "Interrupted",
    "KnnResult",
    "LabelledImages",
    "LinearProbeConfig",
    "LinearResult",
    "LookonceError",
    "MachineError",
    "MaskedSplit",
    "MergeSummary",
    "NumericalError",
    "PatchEncoder",
    "Plan",
    "PullConfig",
    "PullSummary",
    "Purpose",
    "PushConfig",
    "PushSummary",
    "RayStartError",
    "RecipeMismatchError",
    "RemovalSummary",
    "SchemaError",
    "SegmentConfig",
    "SegmentResult",
    "SourceError",
    "StorageError",
    "StoreError",
    "Student",
    "StudentEncoder",
    "SweepSummary",
    "TargetBatch",
    "Teacher",
    "TeacherEncoder",
    "TeacherError",
    "TeacherFeatures",
    "TopTokens",
    "TrainingConfig",
    "TrainingSummary",
    "UnreadableImageError",
    "UsageError",
    "VerifyReport",
    "VisibleTokens",
    "WeightsError",
    "WorkerLostError",
    "check_drift",
    "compare_caches",
    "convert_cache",
    "describe_cache",
    "describe_url",
    "draw_cache",
    "encode_split",
    "evaluate_knn",
    "evaluate_linear",
    "evaluate_segmentation",
    "extract_features",
    "finetune_student",
    "knn_predict",
    "load_alignment",
    "load_student",
    "load_teacher",
    "merge_caches",
    "open_cache",
    "open_catalogue",
    "open_decoded",
    "open_labelled_images",
    "open_masked_images",
    "open_source",
    "parse_seeds",
    "pin_cache",
    "plan",
    "pull_cache",
    "push_cache",
    "read_metrics",
    "recipe_config",
    "remove_cache",
    "remove_seeds",
    "resolve_teacher",
    "save_student",
    "train_student",
    "train_sweep",
    "unpatchify",
    "unpin_cache",
    "verify_cache",
    "verify_url",
]


if not TYPE_CHECKING:  # type checkers see the imports above

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for."""
        if name not in _SOURCES:
            raise AttributeError(f"module {__name__!r} has no public name {name!r}")
        module, original = _SOURCES[name]
        value = getattr(import_module(module), original)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """The public names."""
        return sorted(__all__)
