"""What a checkpoint's card says: accuracies of a task model, bits per byte of the byte-level one."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import torch

import heedful.models
import train_byte
from heedful.models import accuracy, tasks, text

SEED = 9_000_001
"""Of the card's items; far from every training seed."""
REQUIRED = 0.95
"""Full-cache accuracy under which a task is dropped: no result is quoted for it."""


def variants(task: str) -> Iterator[tuple[str, dict[str, object]]]:
    """The forms of a task that the card lists: name in the card, options."""
    yield task, {}
    if task == "ledger":
        for process in ("uniform", "stack", "recent", "oneshot"):
            yield f"ledger/{process}", {"process": process}
    if task in ("niah1", "mk1", "mq"):
        yield f"{task}/reask", {"protocol": "reask"}


def task_accuracy(model: torch.nn.Module, task: str, length: int, items: int, **options: object) -> float:
    """Teacher-forced full-cache accuracy over ``items`` fresh items."""
    drawn = tasks.sample(task, np.random.default_rng([SEED, length]), items, length, **options)
    return accuracy(model, drawn, batch_size=max(1, 8192 // length))


def task_card(model: torch.nn.Module, quoted: Mapping[str, tuple[int, ...]], items: int) -> dict[str, object]:
    """Accuracy per task and length, and the tasks that are dropped at all lengths or at some."""
    table: dict[str, dict[str, float]] = {}
    for task, lengths in quoted.items():
        for name, options in variants(task):
            for length in lengths:
                try:
                    reached = task_accuracy(model, task, length, items, **options)
                except ValueError:
                    continue  # the task does not fit into this length
                table.setdefault(name, {})[str(length)] = round(reached, 4)
    return {
        "items": items,
        "required_accuracy": REQUIRED,
        "accuracy": table,
        "dropped": [name for name, row in table.items() if max(row.values()) < REQUIRED],
        "usable_lengths": {
            name: [int(length) for length, reached in row.items() if reached >= REQUIRED] for name, row in table.items()
        },
        "data": "synthetic items of heedful.models.tasks; no other data",
    }


def byte_card(model: torch.nn.Module) -> dict[str, object]:
    """Bits per byte on held-out chunks of the running installation's standard library."""
    bits = {}
    for length in (128, 256, 512, 1024):
        chunks = text.stdlib_bytes("held-out", np.random.default_rng([SEED, length]), 200, length)
        bits[str(length)] = round(train_byte.bits_per_byte(model, chunks), 4)
    return {
        "held_out_bits_per_byte": bits,
        "chunks": 200,
        "trained_length": 512,
        "data": f"sources of the Python {platform.python_version()} standard library, "
        f"{len(text.stdlib_files('train'))} files, and {len(text.stdlib_files('held-out'))} held out",
    }


def readme(card: Mapping[str, object]) -> str:
    """The card as a page."""
    lines = [
        f"# {card['name']}",
        "",
        f"A Llama of {card['parameters']:,} parameters in {card['layers']} layers, trained from scratch by "
        f"heedful: {card['steps']:,} steps, {card['tokens']:,} tokens, {card['minutes']} minutes on a core, "
        f"seed {card['seed']}.",
        f"Data: {card['data']}.",
        "",
    ]
    if "accuracy" in card:
        table = card["accuracy"]
        assert isinstance(table, dict)
        lengths = sorted({length for row in table.values() for length in row}, key=int)
        lines += [
            f"Teacher-forced accuracy under a full cache, % of scored tokens, {card['items']} items each:",
            "",
            "| task | " + " | ".join(lengths) + " |",
            "|---|" + "---|" * len(lengths),
        ]
        for name, row in table.items():
            cells = [f"{100 * row[length]:.1f}" if length in row else "" for length in lengths]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        dropped = card["dropped"]
        assert isinstance(dropped, list)
        lines += [
            "",
            f"Under {100 * REQUIRED:.0f} % at every length, so not quoted: {', '.join(dropped) or 'none'}.",
        ]
    else:
        bits = card["held_out_bits_per_byte"]
        assert isinstance(bits, dict)
        lines += [
            f"Bits per byte on {card['chunks']} held-out chunks (trained at {card['trained_length']}):",
            "",
            "| length | bits per byte |",
            "|---|---|",
            *(f"| {length} | {value:.3f} |" for length, value in bits.items()),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a shipped checkpoint.")
    parser.add_argument("name", choices=heedful.models.names())
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--tasks", nargs="+", default=None, help="of a task model; all by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, _ = heedful.models.load(args.name)
    if args.name.startswith("byte"):
        card = byte_card(model)
    else:
        chosen = args.tasks or [task for task in tasks.names() if task not in ("repeat", "drill")]
        card = task_card(model, {task: tuple(args.lengths) for task in chosen}, args.items)
    json.dump(card, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
