"""Other ways to extract features, the peers in extract.py: a PyTorch script with hooks, and Ray Data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

LAST = 5


def random_views() -> Any:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224, (0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )


class HookedTeacher:
    """timm's model with hooks on its last blocks and on the last block's queries and keys."""

    def __init__(self, architecture: str, weights: Path) -> None:
        self.model = timm.create_model(architecture, num_classes=0).eval()
        self.model.load_state_dict(load_file(weights), strict=False)
        self._outputs: list[Tensor] = []
        blocks: Any = self.model.blocks
        for block in blocks[-LAST:]:
            block.register_forward_hook(lambda module, arguments, output: self._outputs.append(output))
        blocks[-1].attn.qkv.register_forward_hook(self._keep_attention)
        self._heads, self._attention = blocks[-1].attn.num_heads, torch.empty(0)
        self._mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        self._std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def _keep_attention(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        query, key, _ = output.unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query[:, :, :1] @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        self._attention = scores.softmax(-1)[:, :, 0, 1:].mean(1)

    @torch.inference_mode()
    def __call__(self, views: Tensor) -> dict[str, Tensor]:
        self._outputs.clear()
        self.model((views.float() / 255 - self._mean) / self._std)
        hidden = torch.stack(self._outputs, 2)
        targets = nn.functional.layer_norm(hidden, hidden.shape[-1:])
        return {"targets": targets.half(), "importance": self._attention}


class Photographs(Dataset[Tensor]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths: Sequence[Path] = paths
        self._views = random_views()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> Tensor:
        view: Tensor = self._views(Image.open(self._paths[row]).convert("RGB"))
        return view


def script(teacher: HookedTeacher, paths: Sequence[Path], batch: int, workers: int, out: Path) -> int:
    """DataLoader, hooks, ``torch.save`` of fp16 features and the views, batch by batch."""
    out.mkdir()
    for number, views in enumerate(DataLoader(Photographs(paths), batch, num_workers=workers)):
        torch.save({**teacher(views), "views": views}, out / f"{number:05d}.pt")
    return len(paths)


teacher_of_this_worker: list[HookedTeacher] = []


def ray_data(architecture: str, weights: Path, paths: Sequence[Path], batch: int, out: Path) -> int:
    """Ray Data: one task decodes and cuts, ``map_batches`` runs the teacher, zarr stores the rows in order."""
    import ray.data
    import zarr

    def cut(row: dict[str, Any]) -> dict[str, Any]:
        return {"view": random_views()(Image.open(row["item"]).convert("RGB")).numpy()}

    def look(batch: Any) -> Any:
        from extraction_peers import HookedTeacher, teacher_of_this_worker

        torch.set_num_threads(1)
        if not teacher_of_this_worker:
            teacher_of_this_worker.append(HookedTeacher(architecture, weights))
        features = teacher_of_this_worker[0](torch.from_numpy(np.stack(batch["view"])))
        return {**{name: values.numpy() for name, values in features.items()}, "view": batch["view"]}

    group: Any = zarr.open_group(out, mode="w")
    start = 0
    looked: Any = ray.data.from_items([str(path) for path in paths]).map(cut).map_batches(look, batch_size=batch)
    for rows in looked.iter_batches(batch_size=batch):
        for name, values in rows.items():
            if name not in group:
                group.create_array(
                    name,
                    shape=(len(paths), *values.shape[1:]),
                    dtype=values.dtype,
                    chunks=(1, *values.shape[1:]),
                    shards=(batch, *values.shape[1:]),
                    compressors=None,
                )
            array: Any = group[name]
            array[start : start + len(values)] = values
        start += len(next(iter(rows.values())))
    return start
