"""Train the lookahead parts that a shipped task model comes with (see training/README.md).

Interrupt it at will: the same command goes on where it was. The result is written beside the model's weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from heedful import models
from heedful.kv.lookahead_kv import FILE
from heedful.kv.lookahead_training import LookaheadSettings, train_lookahead
from heedful.models import tasks

WORK = Path(__file__).parent / "work"
MIXTURE = ("early", "twohop", "copy", "niah1", "mk1", "mq", "vt")
"""``marked`` is left out on purpose: the experiment measures it as a task that training has not seen."""
LENGTHS = (128, 256, 512)
SETTINGS = LookaheadSettings(steps=400, batch=16, answer_tokens=16, rate_tokens=1e-2, rate_lora=4e-3)
"""Higher rates than the defaults: with them this small model learns in a tenth of the steps."""


def prompts(count: int, seed: int) -> list[Tensor]:
    """Prompts of all tasks and lengths of the mixture, in turn; each fills 80 to 100 % of its length."""
    rng = np.random.default_rng([seed, 20_260_310])
    found = []
    for index in range(count):
        task, length = MIXTURE[index % len(MIXTURE)], LENGTHS[index // len(MIXTURE) % len(LENGTHS)]
        least = 128 if task == "vt" else 96 if task == "early" else 0
        length = max(least, int(rng.uniform(0.8, 1.0) * length))
        options = {"tail": (20, 40)} if task == "early" and length < 192 else {}
        (item,) = tasks.sample(task, rng, 1, length, **options)
        found.append(torch.from_numpy(item.tokens[: item.prompt_length].copy()))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", help="shipped model, as task-1")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--seed", type=int, default=SETTINGS.seed)
    parser.add_argument("--out", type=Path, help="default: beside the model's weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, _ = models.load(options.name)
    settings = replace(SETTINGS, steps=options.steps, seed=options.seed)
    stem = f"lookahead-{options.name}-{settings.seed}"
    WORK.mkdir(exist_ok=True)
    began = time.monotonic()
    with (WORK / f"{stem}.jsonl").open("a") as log:

        def progress(done: int, total: int, loss: float | None) -> None:
            log.write(json.dumps({"step": done, "loss": loss, "seconds": round(time.monotonic() - began)}) + "\n")
            log.flush()
            if done % 20 == 0:
                print(f"step {done} of {total}: loss {loss if loss is None else round(loss, 3)}", flush=True)

        train_lookahead(
            model,
            prompts(settings.steps * settings.batch, settings.seed),
            options.out or models.path(options.name) / FILE,
            settings=settings,
            state=WORK / f"{stem}.pt",
            progress=progress,
        )


if __name__ == "__main__":
    main()
