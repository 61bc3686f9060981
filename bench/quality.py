#!/usr/bin/env python3
"""Figures that a right implementation reaches, beside their bars; written into BENCHMARKS.md.

Each bar is a function that gives rows of what was seen and what was wanted (bars_digits.py, bars_mnist.py, bars_tables.py); to
add one, write it and name it in BARS. Ends with 1 when a bar is missed. All of them take about three quarters of an hour on two
cores.

    python3 bench/quality.py               every bar, as `make bench-quality` does
    python3 bench/quality.py Q4            some of them; prints, and leaves BENCHMARKS.md alone
"""

import argparse
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
    options = arguments.parse_args()
    unknown = [name for name in options.bars if name not in BARS]
    if unknown:
        arguments.error(f"there is no {', '.join(unknown)}; there are {', '.join(BARS)}")
    version = harness.check(options.latente)
    machine = harness.Machine()
    machine.look()

    rows, notes, missed = [["bar", "what", "figure", "wanted", "verdict", "seconds"]], [], []
    for name in options.bars or BARS:
        bar = BARS[name]
        start = time.perf_counter()
        seen = bar(options.latente)
        seconds = time.perf_counter() - start
        notes += ["", f"**{name}.** {' '.join(bar.__doc__.split())}"]
        for number, row in enumerate(seen):
            verdict = "reached" if row.reached else "missed"
            rows.append([name, row.what, row.figure, row.wanted, verdict, "" if number else f"{seconds:.0f}"])
            say(f"{name}  {verdict:<7}  {row.what}: {row.figure} (wanted: {row.wanted})")
            if not row.reached:
                missed.append(name)
                notes += ["", f"{name} is missed: {row.what}. {row.reason or 'The reason is not known.'}"]
        say(f"{name}  took {seconds:.0f} s")
    if not options.bars:
        harness.write_section("quality", [f"{version}. {machine.sentence()}", "", *harness.table(rows), *notes])
    if missed:
        sys.exit(f"missed: {', '.join(dict.fromkeys(missed))}")


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
