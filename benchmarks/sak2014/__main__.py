"""python -m benchmarks.sak2014: see experiment.py, whose processes must find it by a name of its own."""

import sys

from .experiment import main

if __name__ == "__main__":
    sys.exit(main())
