"""Train the byte-level model on the standard library's sources (see training/README.md)."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from heedful.models import text

WORK = Path(__file__).parent / "work"
TOKENS = 4096
"""Bytes per step."""
LENGTHS = ((0.25, 256), (1.0, 512))
"""(share of the budget, chunk length)."""
RATE_MUON, RATE_ADAM, WARM_UP, COOL_DOWN = 4e-3, 3e-3, 50, 0.5


def new_model(seed: int) -> LlamaForCausalLM:
    """1.3 M parameters: 6 layers, hidden 128, 4 heads and 2 KV heads of size 32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=text.SIZE, hidden_size=128, intermediate_size=384, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=2048,
        rope_theta=10000.0, tie_word_embeddings=False, attn_implementation="sdpa",
        pad_token_id=text.PAD, bos_token_id=text.BOS, eos_token_id=text.EOS,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=RATE_MUON, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=RATE_ADAM, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def bits_per_byte(model: LlamaForCausalLM, chunks: np.ndarray) -> float:
    """Mean bits per predicted byte on ``chunks`` (int [count, length])."""
    with torch.no_grad():
        total = 0.0
        for rows in np.array_split(chunks, max(1, len(chunks) // 16)):
            ids = torch.from_numpy(rows)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            total += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
            ).item()
    return total / math.log(2) / (chunks.shape[0] * (chunks.shape[1] - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="byte-1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30, help="training time in all, resumed parts included")
    args = parser.parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(exist_ok=True)
    path = WORK / f"{args.name}.pt"
    rng = np.random.default_rng(args.seed)
    model = new_model(args.seed)
    opts = optimizers(model)
    step, seen, spent = 0, 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=False)
        model.load_state_dict(state["model"])
        for opt, s in zip(opts, state["optimizers"]):
            opt.load_state_dict(s)
        rng.bit_generator.state = state["rng"]
        step, seen, spent = state["step"], state["seen"], state["seconds"]

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in opts],
            "rng": rng.bit_generator.state,
            "step": step,
            "seen": seen,
            "seconds": spent,
            "seed": args.seed,
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    held_out = text.stdlib_bytes("held-out", np.random.default_rng(0), 64, 512)
    losses: list[float] = []
    saved = time.monotonic()
    with (WORK / f"{args.name}.jsonl").open("a") as log:
        while spent < args.minutes * 60:
            began = time.monotonic()
            done = spent / (args.minutes * 60)
            rate = min(1.0, (step + 1) / WARM_UP, (1 - done) / COOL_DOWN)
            for opt, base in zip(opts, (RATE_MUON, RATE_ADAM)):
                opt.param_groups[0]["lr"] = base * max(rate, 0.02)
            length = next(n for share, n in LENGTHS if done < share)
            ids = torch.from_numpy(text.stdlib_bytes("train", rng, TOKENS // length, length))
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            for opt in opts:
                opt.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
            step += 1
            seen += ids.numel()
            losses.append(loss.item() / math.log(2))
            spent += time.monotonic() - began
            if step % 50 == 0:
                line = {
                    "step": step,
                    "bytes": seen,
                    "seconds": round(spent, 1),
                    "train_bits": round(float(np.mean(losses)), 4),
                }
                if step % 250 == 0:
                    line["held_out_bits"] = round(bits_per_byte(model, held_out), 4)
                print(json.dumps(line), file=log, flush=True)
                losses = []
            if time.monotonic() - saved > 120:
                save()
                saved = time.monotonic()
    save()


if __name__ == "__main__":
    main()
