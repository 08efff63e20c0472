"""Queries and keys of timm's attention layers, computed as in the layers."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor
from torch.nn import functional

from lookonce.extract.teachers.adapters.trunk import split_heads


def class_query_and_keys(attention: Any, tokens: Tensor, rotation: Tensor | None) -> tuple[Tensor, Tensor]:
    """Query of token 0 and all keys of ``Attention``, ``AttentionRope`` or ``EvaAttention``.

    Args:
        attention: the layer.
        tokens: its input, (B, prefix + N, C).
        rotation: sines and cosines of the patches' rotary position, ([heads,] N, 2 * head_dim), or None. Token 0 and
            the rest of the prefix have no position and are not rotated.

    Returns:
        (B, heads, 1, head_dim) and (B, heads, prefix + N, head_dim).
    """
    (query_weight, query_bias), (key_weight, key_bias) = _projections(attention)
    query = split_heads(functional.linear(tokens[:, :1], query_weight, query_bias), attention.num_heads)
    key_heads = getattr(attention, "num_kv_heads", attention.num_heads)
    keys = split_heads(functional.linear(tokens, key_weight, key_bias), key_heads)
    query, keys = attention.q_norm(query), attention.k_norm(keys)
    if rotation is not None:
        prefix = attention.num_prefix_tokens
        rotated = apply_rot_embed_cat(keys[:, :, prefix:], rotation, half=attention.rotate_half)
        keys = torch.cat([keys[:, :, :prefix], rotated], dim=2)
    return query, keys.repeat_interleave(attention.num_heads // key_heads, dim=1)


def pool_query_and_keys(pool: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Query of the (first) latent and the keys of ``AttentionPoolLatent``.

    Args:
        pool: the layer.
        tokens: its input, (B, tokens, C).

    Returns:
        (1, heads, 1, head_dim), because the query is the same for all views, and (B, heads, tokens, head_dim).
    """
    query = split_heads(pool.q(pool.latent[:, :1]), pool.num_heads)
    size, bias = pool.kv.out_features // 2, pool.kv.bias
    keys = functional.linear(tokens, pool.kv.weight[:size], None if bias is None else bias[:size])
    return pool.q_norm(query), pool.k_norm(split_heads(keys, pool.num_heads))


def _projections(attention: Any) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
    """(weight, bias) of queries and of keys, which may be parts of one map for queries, keys and values."""
    if attention.qkv is None:
        query, key = attention.q_proj, attention.k_proj
        return (query.weight, query.bias), (key.weight, key.bias)
    size = attention.qkv.out_features // 3
    query_weight, key_weight = attention.qkv.weight[:size], attention.qkv.weight[size : 2 * size]
    query_bias = getattr(attention, "q_bias", None)
    if query_bias is not None:  # EvaAttention; its keys have none
        return (query_weight, query_bias), (key_weight, None)
    bias = attention.qkv.bias
    if bias is None:
        return (query_weight, None), (key_weight, None)
    return (query_weight, bias[:size]), (key_weight, bias[size : 2 * size])
