"""`python -m mvrefresh` is the command `mvrefresh`."""

from __future__ import annotations

import sys

from mvrefresh.cli import main

if __name__ == "__main__":
    sys.exit(main())
