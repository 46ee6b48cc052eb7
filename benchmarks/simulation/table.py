"""The results as a Markdown table, which is also what is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from .failures import BEFORE, SAMPLE, Fault, FaultOutcome
from .results import LINE, POLICIES, UTILISATIONS, Results


def markdown(results: Results) -> str:
    """A table for each utilisation, and what they mean for the line of 5 %."""
    parts = [
        f"Mean / p99 of the slowdown; {results.seeds} seeds of {results.sessions:,} scripts each, the first fifth of "
        "them dropped. The last column is the mean of `least_loaded` over the oracle's, with its range over the seeds."
    ]
    for utilisation in UTILISATIONS:
        parts.append(f"**Utilisation {utilisation:g}**")
        parts.append("\n".join(_rows(results, utilisation)))
    parts.append(_noise(results))
    parts.append(_moves(results))
    parts.append(_verdict(results))
    return "\n\n".join(part for part in parts if part)


def _rows(results: Results, utilisation: float) -> list[str]:
    names = [name if name in ("oracle", "random") else f"`{name}`" for name in POLICIES]
    rows = [["scenario", *names, "to oracle"]]
    for scenario in results.scenarios:
        cells = [results.cell(scenario, utilisation, policy) for policy in POLICIES]
        each = results.ratios(scenario, utilisation)
        ratio = f"{results.ratio(scenario, utilisation):.3f} ({min(each):.3f} to {max(each):.3f})"
        rows.append([scenario.title, *(f"{cell.mean:.2f} / {cell.p99:.1f}" for cell in cells), ratio])
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return lines


def _noise(results: Results) -> str:
    worst = {
        utilisation: max(
            (results.cell(scenario, utilisation, policy).spread, scenario.title, policy)
            for scenario in results.scenarios
            for policy in POLICIES
        )
        for utilisation in UTILISATIONS
    }
    said = [f"{spread:.0%} at {at:g} ({policy}, {title})" for at, (spread, title, policy) in worst.items()]
    return f"Noise: half the range of a mean over the seeds is at most {' and '.join(said)}."


def _moves(results: Results) -> str:
    """What H cost, where anything was moved."""
    lines = []
    for scenario in results.scenarios:
        for utilisation in UTILISATIONS:
            cells = [results.cell(scenario, utilisation, policy) for policy in POLICIES]
            if any(cell.moved for cell in cells):
                moved = ", ".join(f"{name} {cell.moved:.0f}" for name, cell in zip(POLICIES, cells, strict=True))
                lines.append(f"* {scenario.title}, {utilisation:g}: {moved}")
    return "\n".join(["Scripts moved at H, in a run:", "", *lines]) if lines else ""


def _verdict(results: Results) -> str:
    held = [scenario for scenario in results.scenarios if scenario.held_to_line]
    if not held:
        return ""
    missed = results.missing_the_line()
    ratio, title, at = max((results.ratio(each, at), each.title, at) for each in held for at in UTILISATIONS)
    said = "; ".join(f"{each.title} at {at:g}: {results.ratio(each, at):.3f}" for each, at in missed)
    return (
        f"`least_loaded` is to be within {LINE:.0%} of the oracle wherever it knows the nodes' sizes and reports count "
        f"every script: {'missed in ' + said if missed else 'held in all'} (the largest: {ratio:.3f}, {title}, {at:g})."
    )


def faults_table(
    faults: Sequence[Fault],
    oracle: Mapping[str, FaultOutcome],
    one_word: Mapping[str, FaultOutcome],
    ours: Mapping[str, FaultOutcome],
) -> str:
    """Slowdowns, tries that failed, and nodes out, of the rules before and now."""
    rows = [["what fails", "oracle", "one word", "now", "failed tries", "nodes out", "most on a node"]]
    for fault in faults:
        best, before, now = (each[fault.name] for each in (oracle, one_word, ours))
        slow = [f"{each.mean:.2f} / {each.p99:.1f}" for each in (best, before, now)]
        out = [f"{_mean_out(each):.1f} ({max(each.out):.0f})" for each in (before, now)]
        tries = f"{before.refusals:.0f}, {now.refusals:.0f}"
        rows.append([fault.title, *slow, tries, ", ".join(out), f"{before.largest:.0f}, {now.largest:.0f}"])
    return "\n".join(_aligned(rows))


def _mean_out(outcome: FaultOutcome) -> float:
    return fmean(outcome.out[int(BEFORE / SAMPLE) :])
