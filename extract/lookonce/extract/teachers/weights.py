"""Loads named parameters into a trunk, all of which must match, and computes the digest that identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lookonce.extract.teachers.adapters.trunk import Trunk
from lookonce.shared.canonical import DIGEST_PREFIX, canonical_json
from lookonce.shared.errors import TeacherError
from lookonce.weights.positions import interpolate_positions
from lookonce.weights.selection import Architecture


def architecture_of(trunk: Trunk, name: str) -> Architecture:
    """The parameters of a trunk as files contain them: with additional heads, and positions of any grid."""
    position = trunk.position_embedding
    return Architecture(
        name=name,
        tensors=trunk.model.state_dict(),
        any_shape=frozenset({position.parameter} if position is not None else ()),
        beside=trunk.ignored_prefixes,
    )


def fit_weights(trunk: Trunk, state: Mapping[str, Tensor], *, name: str, origin: str) -> str:
    """Load ``state`` into the trunk, in float32 on the CPU, with positions interpolated to the trunk's grid.

    Args:
        trunk: architecture, for example on the meta device; all its parameters are replaced.
        state: the library's parameter name -> tensor; may contain heads and other ignored parameters.
        name: name of the teacher, for errors.
        origin: origin of ``state``, for errors.

    Returns:
        Digest of the trunk's weights before the interpolation (see ``weights_digest``).

    Raises:
        TeacherError: a parameter is missing, unexpected or of another shape.
    """
    expected = {key: value.shape for key, value in trunk.model.state_dict().items()}
    found = {
        key: value.detach().to("cpu", torch.float32)
        for key, value in state.items()
        if key in expected or not key.startswith(trunk.ignored_prefixes)
    }
    fitted = dict(found)
    position = trunk.position_embedding
    if position is not None and position.parameter in fitted:
        embedding = fitted[position.parameter]
        fitted[position.parameter] = interpolate_positions(embedding, position.prefix, trunk.patch_count)
    problems = replace(architecture_of(trunk, name), any_shape=frozenset()).misfits(fitted)
    if problems:
        others = f", and {len(problems) - 1} other parameters do not fit" if len(problems) > 1 else ""
        raise TeacherError(f"{origin} does not fit {name}: {problems[0]}{others}; give weights of that architecture")
    trunk.model.load_state_dict({key: value.contiguous() for key, value in fitted.items()}, assign=True)
    trunk.compute_buffers()
    return weights_digest(found)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a trunk's parameters, the same for every file, container or precision with the same values.

    Hashed for each name in sorted order: the canonical JSON ``[name, shape]`` and a line feed, then the values as
    little-endian float32 in row-major order. Projection and heads are not included. Final norm and pool are included
    only if importance is the attention of a pool (of the pool: query, keys and values).
    """
    hasher = hashlib.sha256()
    for name in sorted(state):
        hasher.update(canonical_json([name, list(state[name].shape)]) + b"\n")
        hasher.update(np.ascontiguousarray(state[name].to(torch.float32).numpy(), dtype="<f4").data)
    return DIGEST_PREFIX + hasher.hexdigest()
