"""Makes the toy experiments importable, here and in the workers."""

import sys
from pathlib import Path

TOYS = str(Path(__file__).parent / "toys")
if TOYS not in sys.path:
    sys.path.insert(0, TOYS)
