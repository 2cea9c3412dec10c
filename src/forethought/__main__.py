"""`python -m forethought`: the command."""

from __future__ import annotations

import sys

from forethought.cli import main

sys.exit(main())
