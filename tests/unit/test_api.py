"""What users import: listed, cheap to import, there, and typed for programs outside this repository."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from lookonce import api

PUBLIC = [
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
"""A name that leaves this list breaks users' programs: note it in the changelog."""

CACHE = Path(__file__).resolve().parents[2] / ".mypy_cache" / "consumer"

CONSUMER = """\
from pathlib import Path

from lookonce.api import (
    AlignmentConfig,
    BatchConfig,
    CachedTargets,
    ExtractionConfig,
    LookonceError,
    extract_features,
    open_cache,
)
from lookonce.testing import check_batches_resume

try:
    summary = extract_features(ExtractionConfig(teacher="deit-tiny", images="flowers", out=Path("cache")))
    views: int = summary.views_written
    samples: int = open_cache(summary.cache, seeds=[0]).manifest.samples
    batches = CachedTargets(
        BatchConfig(shards=(Path("cache"),), batch_size=4, epochs=1), alignment=AlignmentConfig(layer_weights="top2")
    )
    check_batches_resume(lambda: batches)
except LookonceError as error:
    print(error.message)
"""


def test_the_public_names_are_pinned() -> None:
    assert sorted(PUBLIC) == PUBLIC == api.__all__ == dir(api)


def test_type_checkers_see_what_is_imported() -> None:
    """The two lists of the module, one for type checkers and one for the running program, say the same."""
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for block in ast.parse(inspect.getsource(api)).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == api._SOURCES


def test_every_name_is_there_and_documented() -> None:
    for name in api.__all__:
        assert inspect.getdoc(getattr(api, name)), name
    with pytest.raises(AttributeError, match=r"module 'lookonce\.api' has no public name 'nothing'"):
        api.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_examples_import_nothing_else_of_lookonce() -> None:
    imported = {
        node.module
        for file in (Path(__file__).parents[2] / "examples").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lookonce")
    }
    assert imported == {"lookonce.api"}


def test_importing_costs_next_to_nothing() -> None:
    code = (
        "import sys, time; started = time.perf_counter(); import lookonce.api; took = time.perf_counter() - started\n"
        "print(sorted({'torch', 'numpy', 'ray', 'timm', 'obstore'} & set(sys.modules)), took)"
    )
    results = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in "123"]
    found = [result.stdout.split() for result in results]
    assert {heavy for heavy, _ in found} == {"[]"}
    assert min(float(seconds) for _, seconds in found) < 0.3


@pytest.mark.slow  # quick: `make check` types the examples, which import lookonce.api alone
@pytest.mark.timeout(900)  # the first run checks all of lookonce; later ones take what has changed
def test_a_program_outside_of_the_repository_is_type_checked(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = true\n[mypy-torch.*,numpy.*]\nfollow_imports = skip\n"  # they only cost time here
    )
    wrong = CONSUMER.replace("views: int", "views: str").replace("seeds=[0]", 'seeds="0"').replace("epochs=1, ", "")
    (tmp_path / "right.py").write_text(CONSUMER)
    (tmp_path / "wrong.py").write_text(wrong)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(CACHE), "right.py", "wrong.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "right.py" not in found
    assert 'wrong.py:8: error: Incompatible types in assignment (expression has type "int", variable' in found
    assert 'wrong.py:9: error: Argument "seeds" to "open_cache" has incompatible type "str"' in found
    assert 'wrong.py:10: error: Missing named argument "epochs" for "CachedTargets"' in found
    assert "Found 3 errors in 1 file (checked 2 source files)" in found
