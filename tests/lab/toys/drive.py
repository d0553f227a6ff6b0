"""``drive.py OUT WORKERS``: runs the toy sweep at scale small in a process that tests can kill."""

import json
import sys
from pathlib import Path

import toy_sweep

from heedful.lab.run import run

if __name__ == "__main__":
    try:
        result = run(toy_sweep.experiment, "small", workers=int(sys.argv[2]), out=Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps({"done": result.done, "resumed": result.resumed, "failed": result.failed}))
