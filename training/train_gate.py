"""Train the gates that a shipped task model comes with, for Attention-Gate (see training/README.md).

Continual pre-training: the model is frozen, and the loss is on the tokens that those before them determine. Interrupt
it at will: the same command goes on where it was. The result is written beside the model's weights.
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
from heedful.kv.attention_gate import FILE
from heedful.kv.gate_training import GateSettings, train_gate
from heedful.models import tasks

WORK = Path(__file__).parent / "work"
MIXTURE = {
    "marked": 0.25, "niah1": 0.08, "niah2": 0.1, "mk1": 0.1, "mk3": 0.1, "mq": 0.07, "twohop": 0.06, "copy": 0.06,
    "recall": 0.08, "ledger": 0.1,
}  # fmt: skip
"""Tasks and their weights: most have more filler and distractors than anything else, two have none."""
LENGTHS = (128, 192, 256, 384)
SETTINGS = GateSettings(heads=2, size=16, beta=0.3, alpha=2.0, keep_last=8, gate_rate=1e-2, steps=1000, batch=8, seed=1)
"""Small gates, a tenth of the model's own work; a higher rate than the default: with it this small model learns in a
tenth of the steps. The newest tokens stay because many heads look at the token before: without them such heads keep
everything."""


def sequences(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Token ids and what counts, of random tasks and lengths; each fills 70 to 100 % of its length."""
    rng = np.random.default_rng([seed, 24_101_287])
    names, weights = list(MIXTURE), np.array(list(MIXTURE.values()))
    found = []
    for _ in range(count):
        task = str(rng.choice(names, p=weights / weights.sum()))
        length = int(rng.uniform(0.7, 1.0) * rng.choice(LENGTHS))
        options: dict[str, object] = {}
        if task == "ledger":
            options["process"] = str(rng.choice(["zipf", "uniform", "recent", "oneshot"]))
        elif task != "recall" and length >= 128:
            options["questions"] = int(rng.integers(1, 4))
        if task == "marked":
            length = max(length, 128)
            options |= {"marks": int(rng.integers(1, 9)), "decoys": int(rng.integers(0, 13))}
        (item,) = tasks.sample(task, rng, 1, length, **options)
        found.append((torch.from_numpy(item.tokens), torch.from_numpy(item.scored)))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", help="shipped model, as task-1")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--beta", type=float, default=SETTINGS.beta, help="wanted mean of the gates")
    parser.add_argument("--seed", type=int, default=SETTINGS.seed)
    parser.add_argument("--out", type=Path, help="default: beside the model's weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, _ = models.load(options.name)
    settings = replace(SETTINGS, steps=options.steps, beta=options.beta, seed=options.seed)
    stem = f"gate-{options.name}-{settings.beta}-{settings.seed}"
    WORK.mkdir(exist_ok=True)
    began = time.monotonic()
    with (WORK / f"{stem}.jsonl").open("a") as log:

        def progress(done: int, total: int, loss: float | None) -> None:
            log.write(json.dumps({"step": done, "loss": loss, "seconds": round(time.monotonic() - began)}) + "\n")
            log.flush()
            if done % 20 == 0:
                print(f"step {done} of {total}: loss {loss if loss is None else round(loss, 4)}", flush=True)

        parts = train_gate(
            model,
            sequences(settings.steps * settings.batch, settings.seed),
            options.out or models.path(options.name) / FILE,
            settings=settings,
            state=WORK / f"{stem}.pt",
            progress=progress,
        )
    print({name: round(parts.settings[name], 4) for name in ("loss", "mean_score", "mean_flag")})


if __name__ == "__main__":
    main()
