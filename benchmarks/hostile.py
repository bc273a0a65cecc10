"""What `lema complete` makes of each behaviour of the hostile endpoint: held and failed by family, as a Markdown table.

    python benchmarks/hostile.py [NAME ...] [--jobs N] [--verbose]

Without names all behaviours are tried (about two minutes of CPU). ``--verbose`` prints each trial that failed.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The root first: with the tests alone, tests/flows would stand for the package flows of an editable installation.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hostile_endpoint import BEHAVIOURS  # type: ignore[import-not-found]
from hostile_trials import as_table, trials  # type: ignore[import-not-found]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[[], *BEHAVIOURS], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    found = list(trials(options.names or BEHAVIOURS, options.jobs))
    for trial in found:
        if trial.broken and options.verbose:
            print(json.dumps(asdict(trial)), flush=True)
    print(as_table(found))
    print(
        f"highest peak {max(trial.megabytes for trial in found):.0f} MB; longest {max(t.seconds for t in found):.0f} s"
    )


if __name__ == "__main__":
    main()
