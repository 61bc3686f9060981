#!/usr/bin/env python3
"""Figures that a right implementation reaches, beside their bars; written into BENCHMARKS.md.

Each bar is a function that gives rows of what was seen and what was wanted (bars_digits.py, bars_mnist.py, bars_tables.py); to
add one, write it and name it in BARS. Ends with 1 when a bar is missed. All of them take about three quarters of an hour on two
cores.

    python3 bench/quality.py               every bar, as `make bench-quality` does
    python3 bench/quality.py Q4            some of them; prints, and leaves BENCHMARKS.md alone
    python3 bench/quality.py --write Q4    some of them; their rows in BENCHMARKS.md are replaced, the others stay as they are
"""

import argparse
import datetime
import re
import sys
import time
from pathlib import Path

import harness
from bars_digits import contractive_contracts, linear_is_pca, top_k_explains, vae_beats_mixture
from bars_mnist import denoising_restores, gsn_parzen, helmholtz_likelihood, iwae_likelihood, vae_likelihood
from bars_tables import deep_gp_predicts
from harness import say


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("bars", nargs="*", metavar="BAR", help="which ones, such as Q1; all when left out")
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--write", action="store_true", help="replace the rows of the bars that are named in BENCHMARKS.md")
    options = arguments.parse_args()
    unknown = [name for name in options.bars if name not in BARS]
    if unknown:
        arguments.error(f"there is no {', '.join(unknown)}; there are {', '.join(BARS)}")
    version = harness.check(options.latente)
    machine = harness.Machine()
    machine.look()

    today = datetime.date.today().isoformat()
    seen, missed = {}, []
    for name in options.bars or BARS:
        bar = BARS[name]
        start = time.perf_counter()
        found = bar(options.latente)
        seconds = time.perf_counter() - start
        rows, notes = [], [f"**{name}.** {' '.join(bar.__doc__.split())}"]
        for number, row in enumerate(found):
            verdict = "reached" if row.reached else "missed"
            rows.append([name, row.what, row.figure, row.wanted, verdict, today, "" if number else f"{seconds:.0f}"])
            say(f"{name}  {verdict:<7}  {row.what}: {row.figure} (wanted: {row.wanted})")
            if not row.reached:
                missed.append(name)
                notes.append(f"{name} is missed: {row.what}. {row.reason or 'The reason is not known.'}")
        seen[name] = rows, notes
        say(f"{name}  took {seconds:.0f} s")
    if options.write or not options.bars:
        write(seen, f"{version}. {machine.sentence()}")
    if missed:
        sys.exit(f"missed: {', '.join(dict.fromkeys(missed))}")


def write(seen, sentence):
    """Puts what was seen into BENCHMARKS.md, where bars that were not run keep what is told of them."""
    known = harness.read_section("quality")
    table, notes = [["bar", "what", "figure", "wanted", "verdict", "measured", "seconds"]], []
    for name in BARS:
        if name in seen:
            rows, paragraphs = seen[name]
        else:
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in known if line.startswith(f"| {name} |")]
            paragraphs = [line for line in known if re.match(rf"(\*\*{name}\.\*\*|{name} is missed:) ", line)]
        table += rows
        for paragraph in paragraphs:
            notes += ["", paragraph]
    harness.write_section("quality", [sentence, "", *harness.table(table), *notes])


BARS = {
    "Q1": linear_is_pca,
    "Q2": vae_likelihood,
    "Q3": iwae_likelihood,
    "Q4": vae_beats_mixture,
    "Q5": contractive_contracts,
    "Q6": denoising_restores,
    "Q7": top_k_explains,
    "Q8": helmholtz_likelihood,
    "Q13": gsn_parzen,
    "Q14": deep_gp_predicts,
}


if __name__ == "__main__":
    main()
