"""The configuration of an extraction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lookonce.extract.teachers.blocks import require_layers
from lookonce.extract.teachers.table import teacher_library
from lookonce.shared.config_values import Count, convert_fields, parse_seeds, validate
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_urls, refuse_without_effect
from lookonce.shared.normalisation import RGB, require_rgb
from lookonce.shared.view_recipe import ViewRecipe
from lookonce.storage_schemas.precision import is_calibrated
from lookonce.storage_schemas.tokens import TokenSubset, parse_token_subset

MOST_VIEW_PROCESSES = 1024
"""More are a slip of the keyboard."""


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """One extraction: a teacher, images, and the cache for its features."""

    teacher: str
    """clip-b16, dinov2-b14, deit-tiny ..., timm:NAME[.TAG] or open_clip:ARCH/TAG; an unknown name lists them."""
    images: str | None = None
    """Folder, tars (x/{000..099}.tar) or hf:DATASET[:SPLIT]; required, except with --reuse: then that cache's."""
    out: Path
    """Cache folder: new, empty, or a cache with the same recipe, which is then completed."""
    reuse: Path | None = None
    """Earlier cache of the same views: its values are copied, or the teacher runs on its pixels without decoding."""
    seeds: str = "0"
    """Augmentation seeds, one view of every image per seed: 0-3 or 0,2,5."""
    layers: str = "top5"
    """Teacher blocks to store: top5, all, or 1-based numbers such as 8,10,12."""
    precision: str = "int8"
    """Stored format, bytes per value: fp16, bf16 2; fp8-e4m3, int8 (error about 1 %) 1; int4 0.5; int2 0.25. All blocks
    coded together, bits per value: klt2, klt1.5, klt1, klt0.75, klt0.5, klt0.25; or auto:PERCENT, the klt of the fewest
    bits whose estimated cost is within this percentage of a student's loss."""
    format: Literal["zarr", "webdataset"] = "zarr"
    """Container of the shards: zarr v3 arrays, or tars for the webdataset library."""
    tokens: str = "all"
    """Patches to store: all; visible (one fixed mask per view); top:0.5 (the most important half)."""
    mask: Literal["attentive", "random", "hide-attentive"] = "attentive"
    """With --tokens visible: attentive keeps important patches with high probability, hide-attentive hides them."""
    mask_ratio: float = 0.7
    """With --tokens visible: share of the patches that are not stored, 0 up to 1."""
    pixels: Literal["store", "jpeg", "none"] = "store"
    """store: store the views, so that training needs no images; jpeg: encode them as JPEG before the teacher looks, and
    store that; none: training crops them from the images again."""
    jpeg_quality: Count = 95
    """With --pixels jpeg: quality of the JPEG, 1 to 100; colour has full resolution (4:4:4)."""
    moments: Literal["float32", "float16", "none"] = "float32"
    """Mean and standard deviation of every token, which --target-norm none, l2 and bn need: their dtype, or none."""
    teacher_weights: Path | None = None
    """Weights file (safetensors, or a checkpoint that loads without code); default: the hub cache or the hub."""
    mean: RGB | None = None
    """Mean subtracted from the teacher's pixels (RGB, 0 to 1); default: the one of its weights."""
    std: RGB | None = None
    """Standard deviation that the pixels are then divided by (RGB, above 0); default: the one of its weights."""
    limit: Count | None = None
    """Only N images, evenly over the classes, the first ones by name of each class."""
    relist: bool = False
    """List the images again, even if they seem unchanged since their listing was stored (10,000 images or more)."""
    view_size: Count = 224
    """Side of a view in pixels."""
    crop_scale: str = "0.2,1"
    """Smallest and largest share of an image's area for the crop of a view."""
    crop_ratio: str = "3/4,4/3"
    """Smallest and largest width / height of the crop of a view."""
    flip: float = 0.5
    """Probability that a view is mirrored: 0 never, 1 always."""
    patch_size: Count = 16
    """Side of the student's patches in pixels; the teacher's input gets the same patch grid."""
    batch_size: Count | None = None
    """Views per forward pass of the teacher; default: 32 on CPUs, 256 on a GPU."""
    shard_size: Count | None = None
    """Samples per shard; default: a 64th of the images, at least 16 and at most 1024."""
    workers: str = "auto"
    """Ray workers: auto (one per GPU; without GPUs one per two cores) or a number; more than GPUs share them."""
    ray_address: str = "local"
    """Ray cluster: local (starts one), auto (the running one) or HOST:PORT."""
    stall_timeout: float = 600.0
    """Seconds of silence after which a Ray worker is given up and its shards go to others; 0 waits forever."""
    view_processes: str = "auto"
    """Processes that decode and crop for one worker: auto (with a teacher on a GPU one per core of the worker, if it
    has 4 or more; otherwise 0) or a number; 0: threads of the worker do it. The cache is the same to the byte."""
    executor: Literal["ray", "inline"] = "ray"
    """ray: parallel workers; inline: the same code in this process, without Ray; the cache is byte-identical."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the teacher."""
    compute_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the forward pass; auto: fp32 on a CPU, fp16 on a GPU (overflow is detected, never stored)."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile the teacher's forward pass (torch.compile); auto: on a GPU, for 50,000 views or more, if a measurement
    shows a gain of 5 %. The choice is made when the cache is created, and stored in it."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """skip: an unreadable image becomes a recorded hole and is never trained on; fail: stop and name the image."""
    calibration_views: Count = 256
    """Views that calibrate a precision, evenly spread over the images; more than 512 rarely help. With 256, klt takes
    as many as its dimension needs, at most 2048."""

    def __post_init__(self) -> None:
        """Convert paths from text, and workers and seeds from numbers; refuse values out of range.

        Raises:
            UsageError: names the flag, the value and the allowed range.
        """
        convert_fields(self, Path, "out", "reuse", "teacher_weights")
        convert_fields(self, str, "images", "seeds", "workers", "view_processes")
        if self.images is None and (self.reuse is None or self.limit is not None):
            needed_by = "--limit" if self.reuse else "extract-features, except with --reuse CACHE"
            raise UsageError(f"--images: a folder of images is needed by {needed_by}")
        if self.reuse is not None and self.reuse.expanduser().resolve() == self.out.expanduser().resolve():
            raise UsageError(f"--reuse {self.reuse}: is the folder of --out; choose a new folder for --out")
        validate(self)
        refuse_urls(self)
        if self.executor == "inline":
            refuse_without_effect(self, "--executor ray", "workers", "ray_address", "stall_timeout")
        if self.images is None:
            refuse_without_effect(self, "--images", "relist")
        if not is_calibrated(self.precision):
            refuse_without_effect(self, "a calibrated --precision (int8, int4, int2, klt...)", "calibration_views")
        if not self.stall_timeout >= 0:
            raise UsageError(f"--stall-timeout {self.stall_timeout}: must be seconds above 0, or 0 to wait forever")
        if self.view_size % self.patch_size:
            raise UsageError(
                f"--view-size {self.view_size} is not a multiple of --patch-size {self.patch_size}; "
                f"try {self.view_size // self.patch_size * self.patch_size or self.patch_size}"
            )
        if self.workers != "auto" and not (self.workers.isdecimal() and int(self.workers) > 0):
            raise UsageError(f"--workers {self.workers}: must be auto or a number above 0")
        given = self.view_processes
        if given != "auto" and not (given.isdecimal() and int(given) <= MOST_VIEW_PROCESSES):
            raise UsageError(f"--view-processes {given}: must be auto, or a number from 0 to {MOST_VIEW_PROCESSES}")
        require_rgb(self.mean, self.std)
        teacher_library(self.teacher)
        require_layers(self.layers)
        parse_seeds(self.seeds)
        if self.token_subset.kind != "visible":
            refuse_without_effect(self, "--tokens visible", "mask", "mask_ratio")
        if self.pixels != "jpeg":
            refuse_without_effect(self, "--pixels jpeg", "jpeg_quality")
        self.view_recipe  # noqa: B018 - raises for invalid crop options

    @property
    def view_recipe(self) -> ViewRecipe:
        """The view recipe of the view size, the crop options and ``--flip``.

        Raises:
            UsageError: one of them is malformed or out of range.
        """
        return ViewRecipe.parse(
            size=self.view_size,
            crop_scale=self.crop_scale,
            crop_ratio=self.crop_ratio,
            flip=self.flip,
            jpeg_quality=self.jpeg_quality if self.pixels == "jpeg" else None,
        )

    @property
    def token_subset(self) -> TokenSubset:
        """The stored patches of ``--tokens`` and the mask options.

        Raises:
            UsageError: one of them is malformed or out of range.
        """
        return parse_token_subset(self.tokens, mask=self.mask, mask_ratio=self.mask_ratio)
