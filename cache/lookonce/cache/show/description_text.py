"""The facts of a cache as lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lookonce.shared.view_recipe import view_sentence

_FIRST_TOKEN = {"class": "the class token", "patch-mean": "the mean of the patches"}


def describe_lines(facts: Mapping[str, Any]) -> list[str]:
    """The facts of ``describe_cache`` as lines for people."""
    teacher, view, holes = facts["teacher"], facts["view"], facts["holes"]
    blocks = ", ".join(map(str, teacher["blocks"]))
    a_view = facts["bytes_a_view"]
    arrays = ", ".join(f"{name} {_size(size)}" for name, size in a_view.items() if size)
    classes = facts["classes"]
    table = {
        "cache": f"{facts['cache']} ({'complete' if facts['complete'] else 'INCOMPLETE'})",
        "teacher": f"{teacher['name']}, blocks {blocks} of {teacher['block_count']}, {teacher['width']} channels, "
        f"input {teacher['input_size']} px, computed in {teacher['compute_precision']}",
        "weights": teacher["weights_digest"],
        "precision": facts["precision"],
        "view": f"{view['name']} version {view['version']}, {view['size']} px, {facts['patches']} patches of "
        f"{facts['patch_size']} px, pixels {'stored' if facts['pixels'] == 'store' else 'not stored'}",
        "crops": view_sentence(view),
        "tokens": _tokens(facts),
        "importance": facts["importance"],
        "samples": f"{facts['samples']} per seed, {facts['views']} views in all, {facts['shard_size']} per shard",
        "seeds": _seeds_line(facts["seeds"]),
        "holes": f"{holes['count']}" + (" (unreadable images)" if holes["count"] else ""),
        "classes": f"{len(classes)}: {_listed(classes, 8)}" if classes else "none",
        "size": f"{_size(facts['bytes'])}; {_size(sum(a_view.values()))} per view: {arrays}",
        "statistics": ", ".join(f"{name} {value:.4g}" for name, value in facts["statistics"].items()) or "none",
        "fingerprint": facts["fingerprint"],
        "encoding": facts["encoding"],
        "container": f"{facts['container']}, schema version 1",
        "versions": ", ".join(f"{name} {'|'.join(found)}" for name, found in facts["versions"].items()) or "none",
    }
    lines = []
    for name, value in table.items():
        lines.append(f"{name:<13}{value}")
        if name == "holes":
            lines += [f"{'':<13}seed {hole['seed']}, row {hole['sample']}, {_hole(hole)}" for hole in holes["first"]]
    if facts["unusable_receipts"]:
        lines.append(f"{facts['unusable_receipts']} receipts cannot be used; feature-cache verify names them")
    if unread := facts["not_readable"]:
        lines.append(f"{len(unread)} receipts cannot be read, so their shards are not counted; the first: {unread[0]}")
    return lines


def _tokens(facts: Mapping[str, Any]) -> str:
    tokens, first = facts["tokens"], _FIRST_TOKEN[facts["first_token"]]
    stored = f"{first} and {facts['stored_patches']} of {facts['patches']} patches"
    if tokens["kind"] == "visible":
        return f"visible: {stored}, of {tokens['mask']} masks at ratio {tokens['mask_ratio']}, fixed per seed"
    if tokens["kind"] == "top":
        return f"top:{tokens['share']}: {stored}, the most important; masks are drawn inside them"
    return "all" if facts["first_token"] == "class" else f"all; token 0 is {first}, as the teacher has no class token"


def _seeds_line(seeds: Sequence[Mapping[str, Any]]) -> str:
    if not seeds:
        return "none yet: no shard has a receipt; run extract-features again to resume"
    whole = [str(seed["seed"]) for seed in seeds if seed["complete"]]
    parts = [f"{_listed(whole, 12)} complete"] if whole else []
    broken = [seed for seed in seeds if not seed["complete"]]
    parts += [f"{seed['seed']} has {seed['shards']} of {seed['of_shards']} shards" for seed in broken[:12]]
    parts += [f"{len(broken) - 12} more are incomplete"] if len(broken) > 12 else []
    return "; ".join(parts)


def _listed(names: Sequence[str], most: int) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _size(count: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.3g} B"


def _hole(hole: Mapping[str, Any]) -> str:
    """Key and reason; most reasons begin with the key already."""
    return f"{hole['key']}: {str(hole['reason']).removeprefix(str(hole['key']) + ': ')}"
