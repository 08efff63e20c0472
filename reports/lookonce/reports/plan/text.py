"""A plan as lines for people: a table of sizes, then a line for each question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lookonce.shared.quantities import bytes_text, count_text, duration_text


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The document of ``extract.plan`` as lines."""
    first = {"teacher": _teacher(plan["teacher"]), "views": _views(plan), "tried": _probed(plan["probe"])}
    then = {
        "size": _size(plan),
        "time": _time(plan),
        "reading": _reading(plan),
        "disk": _disk(plan["disk"]),
        "break-even": _break_even(plan),
        "advice": [plan["advice"].upper(), *plan["reasons"]],
    }
    return [*_indented(first), "", *_table(plan), "", *_indented(then)]


def _indented(facts: Mapping[str, list[str]]) -> Iterator[str]:
    for name, texts in facts.items():
        for position, text in enumerate(texts):
            yield f"{'' if position else name:<13}{text}"


def _teacher(teacher: Mapping[str, Any]) -> list[str]:
    blocks = ", ".join(map(str, teacher["blocks"]))
    return [
        (
            f"{teacher['name']}, blocks {blocks} of {teacher['block_count']}, fed {teacher['input_size']} px, "
            f"{teacher['compute_precision']} on {teacher['device']}"
        )
    ]


def _views(plan: Mapping[str, Any]) -> list[str]:
    images, seeds = plan["images"], len(plan["seeds"])
    pixels = "stored" if plan["pixels"] == "store" else "not stored"
    container = f"{plan['container']} shards of {plan['shard_size']}"
    return [f"{images:,} images x {count_text(seeds, 'seed')} = {images * seeds:,}; pixels {pixels}; {container}"]


def _probed(probe: Mapping[str, Any]) -> list[str]:
    bad = f" ({probe['unreadable']} UNREADABLE)" if probe["unreadable"] else ""
    where = count_text(probe["threads"], "thread") if probe["threads"] else "GPU"
    return [
        (
            f"{count_text(probe['images'], 'image')}{bad} and {count_text(probe['forwards'], 'forward pass', 'es')} of "
            f"{count_text(probe['batch'], 'view')}; per view:"
        ),
        (
            f"{duration_text(probe['view_seconds'])} of one core to decode and crop, "
            f"{duration_text(probe['teacher_seconds'])} in the teacher ({where}), "
            f"{duration_text(probe['encode_seconds'] + probe['write_seconds'])} to encode and hash"
        ),
    ]


def _table(plan: Mapping[str, Any]) -> Iterator[str]:
    """Precisions down, token subsets across; a star marks what was asked for."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for size in plan["sizes"]:
        rows.setdefault(size["precision"], []).append(size)
    subsets = [f"{_subset(size)}, {size['stored_patches']} of {plan['patches']}" for size in next(iter(rows.values()))]
    yield f"{'view, all':<13}" + "".join(f"{name:<28}" for name in subsets).rstrip()
    for precision, sizes in rows.items():
        cells = [
            f"{bytes_text(size['bytes_a_view'])}, {bytes_text(size['bytes'])}{' *' * size['chosen']}" for size in sizes
        ]
        yield f"{precision:<13}" + "".join(f"{cell:<28}" for cell in cells).rstrip()


def _subset(size: Mapping[str, Any]) -> str:
    tokens = size["tokens"]
    return f"top:{tokens['share']:g}" if tokens["kind"] == "top" else str(tokens["kind"])


def _size(plan: Mapping[str, Any]) -> list[str]:
    chosen = next(size for size in plan["sizes"] if size["chosen"])
    a_view, total = bytes_text(chosen["bytes_a_view"]), bytes_text(chosen["bytes"])
    return [f"{a_view} a view, {total} in all: all files of the cache, if every image can be read"]


def _time(plan: Mapping[str, Any]) -> list[str]:
    workers, extraction = plan["workers"], plan["extraction"]
    if not extraction["views_left"]:
        return ["none: every view is in the cache already"]
    hours, rate = extraction["hours"], extraction["views_per_second"]
    gpu = {0: "", 1: "a GPU and "}.get(workers["gpus"], f"{workers['gpus']:.2g} of a GPU and ")
    each = gpu + count_text(workers["cpus"], "core")
    return [
        (
            f"{duration_text(3600 * hours)} ({hours:.3g} h) for {extraction['views_left']:,} views "
            f"at {rate:,.3g} views/s, "
            f"{_rate(extraction['write_bytes_per_second'])} to disk"
        ),
        (
            f"(with {count_text(workers['workers'], 'worker')} ({workers['executor']}) of {each} like this machine's; "
            "decoding, teacher and writing in parallel; the disk was not tried)"
        ),
        f"{duration_text(plan['start_up_seconds'])} before the first view: imports, listing the images, loading the "
        "teacher" + (" (starting Ray comes on top)" if workers["executor"] == "ray" else ""),
    ]


def _reading(plan: Mapping[str, Any]) -> list[str]:
    reading = plan["reading"]
    rate, patches = f"{reading['student_rate']:,g}", count_text(reading["visible_patches"], "visible patch", "es")
    return [
        (
            f"a student at {rate} images/s needs {_rate(reading['visible_bytes_per_second'])} ({patches} a view), "
            f"or {_rate(reading['whole_bytes_per_second'])} where whole views are read from the disk"
        )
    ]


def _disk(disk: Mapping[str, Any]) -> list[str]:
    there = f" ({bytes_text(disk['there'])} are there already)" if disk["there"] else ""
    return [f"{bytes_text(disk['free'])} free at {disk['out']}, {bytes_text(disk['left'])} to write{there}"]


def _break_even(plan: Mapping[str, Any]) -> list[str]:
    even = plan["break_even"]
    counted = "teacher, decoding and cropping" if even["decoding_counted"] else "the teacher alone"
    epochs, experiments = count_text(even["epochs"], "epoch"), count_text(even["experiments"], "experiment")
    cached, online = (duration_text(3600 * even[f"{name}_hours"]) for name in ("cached", "online"))
    lines = [
        (
            f"the cache pays after {count_text(even['after_epochs'], 'epoch')} of one experiment, or from "
            f"{count_text(even['after_experiments'], 'experiment')} of {epochs} on"
        ),
        f"{experiments} of {epochs}: {cached} for the cache, {online} for an online teacher on the same workers",
        f"(an online teacher pays in every epoch for: {counted}; reading the cache is taken as free)",
    ]
    repeated = even["epochs"] / len(plan["seeds"])
    return [*lines, *([f"an experiment sees every view {repeated:.3g} times"] if repeated > 1 else [])]


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_text(bytes_per_second)}/s"
