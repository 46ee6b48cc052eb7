"""The results as a picture: an SVG written by hand, so that nobody has to install a plotting library for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from .failures import BEFORE, LENGTH, NODES, SAMPLE, Fault, FaultOutcome
from .results import POLICIES, UTILISATIONS, Results

_LABELS, _PANEL, _GAP, _ROW, _TOP = 230, 400, 30, 34, 96
_RIGHT = 24
_TICKS = (1, 1.25, 1.5, 2, 3, 5, 8)
_FONT = 'font-family="Helvetica, Arial, sans-serif"'


def _cross(x: float, y: float) -> str:
    return f'<path d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10" stroke="#888" stroke-width="2.5" fill="none"/>'


def _path(color: str, points: str) -> Callable[[float, float], str]:
    return lambda x, y: f'<path d="M{x:.1f} {y:.1f}{points}" fill="{color}"/>'


# Shapes differ as well as colours, for those who do not see colours, and for print.
_MARKS: dict[str, Callable[[float, float], str]] = {
    "oracle": lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="#222" stroke-width="2"/>',
    "least_loaded": lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="#0072b2"/>',
    "power_of_two": _path("#009e73", "m0 -6l6 11h-12z"),
    "weighted_random": _path("#e69f00", "m0 -6.5l6.5 6.5l-6.5 6.5l-6.5 -6.5z"),
    "round_robin": _path("#d55e00", "m-5 -5h10v10h-10z"),
    "random": _cross,
}


def svg(results: Results) -> str:
    """Mean slowdown by scenario, one panel for each utilisation, the axis logarithmic."""
    bottom = _TOP + _ROW * len(results.scenarios)
    width, height = _LABELS + 2 * _PANEL + _GAP + _RIGHT, bottom + 44
    largest = max(cell.mean for cell in results.cells.values())
    last = next((tick for tick in _TICKS if tick >= largest), math.ceil(largest))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'{_FONT} font-size="13">',
        "<title>Mean slowdown of the policies by scenario</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_legend(),
    ]
    for place, scenario in enumerate(results.scenarios):
        y = _TOP + _ROW * (place + 0.5)
        parts.append(f'<text x="{_LABELS - 14}" y="{y + 4.5:.1f}" text-anchor="end">{escape(scenario.title)}</text>')
    for panel, utilisation in enumerate(UTILISATIONS):
        left = _LABELS + panel * (_PANEL + _GAP)

        def x_of(slowdown: float, left: float = left) -> float:
            return left + 10 + (_PANEL - 20) * math.log(slowdown) / math.log(last)

        parts.append(
            f'<text x="{left + _PANEL / 2}" y="{_TOP - 14}" text-anchor="middle" font-weight="bold">'
            f"utilisation {utilisation:g}</text>"
        )
        for tick in (tick for tick in _TICKS if tick <= last):
            x = x_of(tick)
            parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#ddd"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{tick:g}</text>')
        parts.append(
            f'<text x="{left + _PANEL / 2}" y="{bottom + 36}" text-anchor="middle">mean slowdown (1: alone)</text>'
        )
        for place, scenario in enumerate(results.scenarios):
            y = _TOP + _ROW * (place + 0.5)
            parts.append(f'<path d="M{left} {y:.1f}H{left + _PANEL}" stroke="#eee"/>')
            # The oracle's ring last, around what is as good.
            means = {name: results.cell(scenario, utilisation, name).mean for name in reversed(POLICIES)}
            parts += [_MARKS[name](x_of(mean), y) for name, mean in means.items()]
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> list[str]:
    parts, x = [], 60.0
    for policy in POLICIES:
        parts.append(_MARKS[policy](x, 30))
        parts.append(f'<text x="{x + 16}" y="34.5">{policy}</text>')
        x += 62 + 8.0 * len(policy)
    return parts


_COLUMNS, _CELL, _HEIGHT, _ABOVE, _LEFT = 3, 290, 96, 62, 34
_LINES = (("one word", "#d55e00", "5 3"), ("now", "#0072b2", ""))


def out_svg(faults: Sequence[Fault], one_word: Mapping[str, FaultOutcome], ours: Mapping[str, FaultOutcome]) -> str:
    """Nodes left out over time, a panel for each fault."""
    rows = math.ceil(len(faults) / _COLUMNS)
    width, height = _COLUMNS * _CELL + 20, rows * (_HEIGHT + 58) + _ABOVE - 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'{_FONT} font-size="11">',
        "<title>Nodes left out over time</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for place, (name, color, dashes) in enumerate(_LINES):
        x = _LEFT + 110 * place
        parts.append(f'<path d="M{x} 20h26" stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        parts.append(f'<text x="{x + 32}" y="24" font-size="13">{name}</text>')
    parts.append(f'<text x="{_LEFT + 230}" y="24">nodes of {NODES} left out, by seconds since it began</text>')
    for place, fault in enumerate(faults):
        left, top = _LEFT + _CELL * (place % _COLUMNS), _ABOVE + (_HEIGHT + 58) * (place // _COLUMNS)
        parts += _panel(fault.title, left, top, (one_word[fault.name].out, ours[fault.name].out))
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, left: float, top: float, series: tuple[Sequence[float], Sequence[float]]) -> list[str]:
    wide = _CELL - 36

    def x_of(seconds: float) -> float:
        return left + wide * (seconds + BEFORE) / (LENGTH + BEFORE)

    def y_of(nodes: float) -> float:
        return top + _HEIGHT * (1 - nodes / NODES)

    parts = [f'<text x="{left}" y="{top - 8}" font-weight="bold">{escape(title)}</text>']
    for nodes in (0, NODES / 2, NODES):
        y = y_of(nodes)
        parts.append(f'<path d="M{left} {y:.1f}h{wide}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{nodes:g}</text>')
    for seconds in (0, 300, 600, 900):
        x = x_of(seconds)
        parts.append(f'<path d="M{x:.1f} {top}v{_HEIGHT}" stroke="#eee"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + _HEIGHT + 15}" text-anchor="middle">{seconds}</text>')
    for (_, color, dashes), values in zip(_LINES, series, strict=True):
        points = " ".join(
            f"{x_of(SAMPLE * place - BEFORE):.1f},{y_of(value):.1f}" for place, value in enumerate(values)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8" stroke-dasharray="{dashes}"/>'
        )
    return parts
