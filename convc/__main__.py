"""`python -m convc`: the command, for where the script `convc` is not on the path."""

from __future__ import annotations

import sys

from convc.cli import main

if __name__ == "__main__":
    sys.exit(main())
