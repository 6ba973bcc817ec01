"""The fuzzer as a command; exit status 1 means that there are findings."""

import argparse
import os
import sys
from pathlib import Path

from tests.fuzz import MODULES, runner


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Run the product on damaged and odd input."
    )
    parser.add_argument("--count", type=int, default=300, help="how many inputs of each kind (300)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other inputs (0)")
    parser.add_argument("--only", choices=MODULES, action="append", help="only this kind; may be repeated")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy inputs with findings to this folder")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="inputs that run at once")
    options = parser.parse_args()
    total = 0
    for name in options.only or MODULES:
        findings = runner.fuzz(f"tests.fuzz.{name}", options.count, options.seed, options.keep, options.processes)
        for finding in findings:
            print(f"{finding}\n", flush=True)
        print(f"{name}: {options.count} inputs, {len(findings)} findings", flush=True)
        total += len(findings)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
