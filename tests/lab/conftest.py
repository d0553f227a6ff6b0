"""Makes the toy experiments importable, here and in the workers; an address at which nobody answers."""

import socket
import sys
from pathlib import Path

import pytest

TOYS = str(Path(__file__).parent / "toys")
if TOYS not in sys.path:
    sys.path.insert(0, TOYS)


@pytest.fixture
def nobody():
    """The URL of a port that refuses connections, and is kept from others meanwhile."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))  # and never listens
        yield f"http://127.0.0.1:{kept.getsockname()[1]}"
