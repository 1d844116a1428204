"""What came out, as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.systems import SYSTEMS

Result = dict[str, Any]
NONE = "-"


def number(value: float | None) -> str:
    """Three figures, no exponent; nothing where there is no value."""
    if value is None:
        return NONE
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


HEAD = (
    "set",
    "system",
    "setting",
    "recall@10",
    "add s",
    "index s",
    "p50 ms",
    "p99 ms",
    "batch QPS",
    "cold s",
    "MiB, build",
    "MiB, search",
    "bytes a row",
)


def summary(phases: dict[str, Result], rows: int) -> Result:
    """The figures of a system on a set, out of its phases.

    Of the rounds the one in the middle counts, by p50.
    """
    built, tuned = phases.get("build", {}), phases.get("tune", {})
    rounds = [
        result
        for name, result in phases.items()
        if name.startswith("single") and "failed" not in result
    ]
    rounds.sort(key=lambda result: result["p50_ms"])
    middle = rounds[len(rounds) // 2] if rounds else {}
    failed = [result["failed"] for result in phases.values() if "failed" in result]
    bytes_a_row = built["bytes"] / rows if "bytes" in built else None
    return {
        "parameters": built.get("parameters", {}),
        "knob": tuned.get("knob"),
        "value": tuned.get("value"),
        "reached": tuned.get("reached"),
        "recall": middle.get("recall"),
        "add_s": built.get("add_s"),
        "index_s": built.get("index_s"),
        "p50_ms": middle.get("p50_ms"),
        "p50_range_ms": [result["p50_ms"] for result in (rounds[:1] + rounds[-1:])],
        "p99_ms": middle.get("p99_ms"),
        "qps": phases.get("batch", {}).get("qps"),
        "cold_s": phases.get("cold", {}).get("cold_s"),
        "build_mib": built.get("memory", {}).get("resident"),
        "search_mib": middle.get("memory", {}).get("resident"),
        "bytes_a_row": bytes_a_row,
        "versions": built.get("versions", {}),
        "failed": failed[0] if failed else None,
    }


def _setting(found: Result) -> str:
    parameters = {
        name: value
        for name, value in found["parameters"].items()
        if isinstance(value, int | float | str)
    }
    words = [f"{name} {value}" for name, value in parameters.items()]
    if found["value"] is not None:
        words.append(f"**{found['knob']} {found['value']}**")
    return ", ".join(words) or NONE


def systems(sets: dict[str, dict[str, Result]]) -> str:
    """The main table: a line a system, by set."""
    lines = []
    for group, found in sets.items():
        for name, each in found.items():
            title = SYSTEMS[name].title
            if each["p50_ms"] is None:
                reason = each["failed"] or "not measured"
                lines.append([group, title, reason, *[NONE] * (len(HEAD) - 3)])
                continue
            recall = f"{each['recall']:.4f}" + ("" if each["reached"] is not False else " (most)")
            figures = [number(each[key]) for key in (
                "add_s", "index_s", "p50_ms", "p99_ms", "qps", "cold_s",
                "build_mib", "search_mib", "bytes_a_row")]  # fmt: skip
            setting = _setting(each)
            if each["failed"]:
                setting += f"; {each['failed']}"
            lines.append([group, title, setting, recall, *figures])
    return table(HEAD, lines)


def pairs(sets: dict[str, dict[str, dict[str, Result]]]) -> str:
    """latentdb against raw FAISS with the same index, in turns in one process."""
    head = (
        "set",
        "system",
        "raw FAISS",
        "its p50 µs (recall)",
        "`search` (recall)",
        "`query` by id (recall)",
        "batch time, to FAISS's",
    )
    lines = []
    for group, found in sets.items():
        for name, phases in found.items():
            one, many = phases.get("pair-single", {}), phases.get("pair-batch", {})
            if not one and not many:
                continue
            if "failed" in one or "failed" in many:
                reason = one.get("failed") or many.get("failed")
                lines.append([group, SYSTEMS[name].title, str(reason), *[NONE] * 4])
                continue
            base = one["faiss_us"]
            lines.append(
                [
                    group,
                    SYSTEMS[name].title,
                    one["twin"],
                    f"{base:.0f} ({one['faiss_recall']:.4f})",
                    f"{one['search_us'] - base:+.0f} ({one['search_recall']:.4f})",
                    f"{one['query_us'] - base:+.0f} ({one['query_recall']:.4f})",
                    number(many.get("ratio")),
                ]
            )
    return table(head, lines) if lines else ""


def commands(sets: dict[str, Result]) -> str:
    """The command line from process start."""
    head = ("set", "`latentdb query DB id:X --json`", '`python -c "import numpy, faiss"`', "ratio")
    lines = []
    for group, each in sets.items():
        if "failed" in each:
            lines.append([group, each["failed"], NONE, NONE])
            continue
        ratio = each["latentdb"] / each["import"]
        lines.append(
            [group, f"{each['latentdb']:.3f} s", f"{each['import']:.3f} s", f"{ratio:.2f}"]
        )
    return table(head, lines) if lines else ""


def filters(sets: dict[str, Result]) -> str:
    head = (
        "set",
        "filter",
        "kept",
        "rows",
        "p50 ms",
        "p99 ms",
        "recall@10",
        "of the worst cluster",
        "without filter",
        "exact",
    )
    lines = []
    for group, result in sets.items():
        if "failed" in result:
            lines.append([group, str(result["failed"]), *[NONE] * (len(head) - 2)])
        for cell in result.get("cells", ()):
            lines.append(
                [
                    group,
                    cell["filter"],
                    f"{100 * cell['share']:g} %",
                    f"{cell['kept']:,}",
                    number(cell["p50_ms"]),
                    number(cell["p99_ms"]),
                    f"{cell['recall']:.4f}",
                    NONE if cell["filter"] == "independent" else f"{cell['worst']:.3f}",
                    f"{cell['unfiltered']:.4f}",
                    "yes" if cell["exact"] else "no",
                ]
            )
    return table(head, lines)


def composed(sets: dict[str, Result]) -> str:
    head = ("set", "query", "recall@10", "p50 ms", "p99 ms")
    lines = []
    for group, result in sets.items():
        if "failed" in result:
            lines.append([group, str(result["failed"]), NONE, NONE, NONE])
        for cell in result.get("cells", ()):
            figures = [number(cell["p50_ms"]), number(cell["p99_ms"])]
            lines.append([group, cell["kind"], f"{cell['recall']:.4f}", *figures])
    return table(head, lines)


def growth(sizes: dict[int, dict[str, Result]]) -> str:
    head = (
        "rows",
        "build s, all",
        "of it: importing",
        "indexing",
        "p50 ms",
        "p99 ms",
        "recall@10",
        "MiB resident, build",
        "of it own",
        "MiB, search",
        "bytes a row",
        "cold query s",
    )
    lines = []
    for rows, phases in sizes.items():
        built, one = phases.get("growth-build", {}), phases.get("growth-single", {})
        failed = next((each["failed"] for each in phases.values() if "failed" in each), None)
        if failed is not None or not one:
            lines.append([f"{rows:,}", failed or "not measured", *[NONE] * (len(head) - 2)])
            continue
        lines.append(
            [
                f"{rows:,}",
                number(built["build_s"]),
                number(built["add_s"]),
                number(built["index_s"]),
                number(one["p50_ms"]),
                number(one["p99_ms"]),
                f"{one['recall']:.4f}",
                number(built["memory"]["resident"]),
                number(built["memory"]["own"]),
                number(one["memory"]["resident"]),
                number(built["bytes"] / rows),
                number(phases.get("commands", {}).get("latentdb")),
            ]
        )
    return table(head, lines)
