"""A year of short-lived hosts, one a minute, on a real store and a simulated clock: state size and pick time over it.

Run: python -m benchmarks.years DIRECTORY DAYS               a line of JSON for each day, of a lock file in there
     python -m benchmarks.years --attributes DIRECTORY DAYS  the same with versions in attributes, as on GlusterFS
     python -m benchmarks.years --draw FILE ...              their picture, as docs/years.svg; each file is a line in it

One pod of 50 is killed at work; what it has left is kept for 30 days, for its retry. Each day one of five nodes is
replaced by a new one. Of 1,000 changes one after another 50 are made on the store (10 with attributes), the others
beside it (tests/support/shelved_store.py), and all picks that are timed on the store. A year takes some minutes of one
core.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from html import escape

from benchmarks.pick_rows import in_attributes

_LEFT, _WIDTH, _TOP, _HEIGHT, _GAP = 80, 640, 50, 170, 50
_COLORS = ("#0072b2", "#d55e00", "#009e73")
_PANELS = (("state", "state, KB", 1 / 1000), ("pick", "a pick, median of 25, ms", 1.0))
Days = list[dict[str, float]]


def run(directory: str, days: int, *, attributes: bool = False) -> None:
    from tests.support.pods import Pods, SetClock, file_store
    from tests.support.shelved_store import ShelvedStore

    clock = SetClock()
    with in_attributes() if attributes else nullcontext():
        store = file_store(os.path.join(directory, "node_in_use.tmp"), clock)
    pods = Pods(ShelvedStore(store, clock, made=10 if attributes else 50), clock, node_days=1)
    for found in pods.run(days, samples=days):
        print(json.dumps(found._asdict()))


def svg(runs: dict[str, Days]) -> str:
    """State size and pick time by day, a line for each run.

    :param runs: by their titles
    """
    last = max(found["day"] for days in runs.values() for found in days)
    bottom = _TOP + 2 * (_HEIGHT + _GAP)
    width = _LEFT + _WIDTH + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" width="{width}" height="{bottom}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13">',
        "<title>The shared state over a year of pods</title>",
        f'<rect width="{width}" height="{bottom}" fill="#fff"/>',
    ]
    for place, title in enumerate(runs):
        x = _LEFT + 290 * place
        parts.append(f'<path d="M{x} 20h24" stroke="{_COLORS[place]}" stroke-width="2.5"/>')
        parts.append(f'<text x="{x + 30}" y="24.5">{escape(title)}</text>')
    for panel, (key, label, unit) in enumerate(_PANELS):
        top = _TOP + panel * (_HEIGHT + _GAP)
        most = max(found[key] * unit for days in runs.values() for found in days) * 1.1
        parts.append(f'<text x="{_LEFT}" y="{top - 6}" font-weight="bold">{label}</text>')
        for tick in range(5):
            y = top + _HEIGHT * (1 - tick / 4)
            parts.append(f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4.5:.1f}" text-anchor="end">{most * tick / 4:.3g}</text>')
        for tick in range(0, int(last) + 2, 30):
            x = _LEFT + _WIDTH * min(1.0, tick / last)
            parts.append(f'<text x="{x:.1f}" y="{top + _HEIGHT + 18}" text-anchor="middle">{tick}</text>')
        for place, days in enumerate(runs.values()):
            points = " ".join(
                f"{_LEFT + _WIDTH * found['day'] / last:.1f},{top + _HEIGHT * (1 - found[key] * unit / most):.1f}"
                for found in days
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{_COLORS[place]}" stroke-width="1.5"/>')
    parts.append(f'<text x="{_LEFT + _WIDTH}" y="{bottom - 4}" text-anchor="end">days</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    if sys.argv[1] == "--draw":
        runs = {}
        for path in sys.argv[2:]:
            with open(path, encoding="utf-8") as file:
                runs[os.path.splitext(os.path.basename(path))[0]] = [json.loads(line) for line in file]
        print(svg(runs), end="")
    else:
        *options, directory, days = sys.argv[1:]
        run(directory, int(days), attributes=options == ["--attributes"])


if __name__ == "__main__":
    main()
