"""What the policies are worth: a simulated cluster of 30 nodes whose picks are made by the package's own code.

Run: python benchmarks/policies.py [--full] [--only NAME ...] [--write]

``--full`` takes 3 seeds of 30,000 scripts, about a quarter of an hour; without it 3 of 2,500, about two minutes.
``--write`` puts the table into docs/policies.md and the picture into docs/policies.svg. What is simulated and what it
cannot say: docs/policies.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from simulation.plot import svg
from simulation.results import Results
from simulation.scenario import SCENARIOS
from simulation.table import markdown

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- written by benchmarks/policies.py --full --write -->", "<!-- end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description="Mean and p99 slowdown of each policy beside an oracle.")
    parser.add_argument("--full", action="store_true", help="3 seeds of 30,000 scripts, not of 2,500")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[each.name for each in SCENARIOS], default=[])
    parser.add_argument("--write", action="store_true", help="also write docs/policies.md and docs/policies.svg")
    chosen = parser.parse_args()
    scenarios = [each for each in SCENARIOS if not chosen.only or each.name in chosen.only]
    results = Results(scenarios, 30_000 if chosen.full else 2_500, 3, say)
    say("")
    text = markdown(results)
    print(text)
    if chosen.write:
        page = DOCS / "policies.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
        (DOCS / "policies.svg").write_text(svg(results), encoding="utf-8")


def say(what: str) -> None:
    """On one line, and only to somebody who watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
