"""``toy_builder.py FOLDER LOG SECONDS``: asks for one artifact, as a cell in a process of its own does."""

import os
import sys
import time
from pathlib import Path

from heedful.lab.artifacts import artifact


def main() -> None:
    folder, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

    def build(unfinished: Path) -> None:
        with open(log, "a") as file:
            file.write(f"build {os.getpid()}\n")
        (unfinished / "half").write_text("half")
        time.sleep(seconds)
        (unfinished / "whole").write_text("whole")

    print(artifact(folder, "code", {"steps": 3}, build))


if __name__ == "__main__":
    main()
