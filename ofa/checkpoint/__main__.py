"""`python -m ofa.checkpoint inspect|convert`: the same as the command `ofa`."""

import sys

from ofa.cli import main

if __name__ == "__main__":
    sys.exit(main())
