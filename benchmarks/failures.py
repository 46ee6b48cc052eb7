"""What leaving nodes out is worth, and what it costs: nodes and networks that fail in a simulated cluster.

Run: python benchmarks/failures.py [--only NAME ...] [--keep FILE] [--write]

3 seeds of each fault, about a minute. ``--write`` puts the table into docs/policies.md and the picture into
docs/failures.svg; ``--keep`` writes the outcomes as JSON. Beside them stand those of `ONE_WORD`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from simulation.failures import FAULTS, FaultOutcome, FaultRun
from simulation.plot import out_svg
from simulation.table import faults_table

DOCS = Path(__file__).parent.parent / "docs"
ONE_WORD = Path(__file__).parent / "one_word.json"
"""As kept with the rules of the version before: each word of each host put a node out for all."""
BEGIN, END = "<!-- written by benchmarks/failures.py --write -->", "<!-- end of the failures -->"
UTILISATION, SEEDS = 0.85, 3


def main() -> None:
    parser = argparse.ArgumentParser(description="Slowdown and nodes left out while something fails.")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[each.name for each in FAULTS], default=[])
    parser.add_argument("--keep", metavar="FILE", type=Path, help="write the outcomes as JSON")
    parser.add_argument("--write", action="store_true", help="also write docs/policies.md and docs/failures.svg")
    chosen = parser.parse_args()
    faults = [each for each in FAULTS if not chosen.only or each.name in chosen.only]
    ours = {fault.name: outcome(fault.name, oracle=False) for fault in faults}
    if chosen.keep:
        chosen.keep.write_text(json.dumps(ours, separators=(",", ":")) + "\n", encoding="utf-8")
        return
    theirs = {name: FaultOutcome(*each) for name, each in json.loads(ONE_WORD.read_text(encoding="utf-8")).items()}
    best = {fault.name: outcome(fault.name, oracle=True) for fault in faults}
    text = faults_table(faults, best, theirs, ours)
    print(text)
    if chosen.write:
        page = DOCS / "policies.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
        (DOCS / "failures.svg").write_text(out_svg(faults, theirs, ours), encoding="utf-8")


def outcome(name: str, *, oracle: bool) -> FaultOutcome:
    """The mean over the seeds."""
    fault = next(each for each in FAULTS if each.name == name)
    runs = [FaultRun(fault, UTILISATION, seed, oracle=oracle).outcome() for seed in range(1, SEEDS + 1)]
    return FaultOutcome.mean_of(runs)


if __name__ == "__main__":
    main()
