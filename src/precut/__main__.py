"""``python -m precut`` is the command ``precut``."""

from __future__ import annotations

import sys

from precut.cli import main

if __name__ == "__main__":
    sys.exit(main())
