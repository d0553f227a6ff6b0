"""kvpress's side of ``kv_kvpress.py``: run by the Python of an environment that holds kvpress and not this project.

    python kvpress_side.py MODEL_FOLDER PROMPT_FILE SLOTS WINDOW THREADS

Reads one command a line from standard input, as JSON, and answers each with one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import kvpress
import torch
import transformers
from resident import peak_growth
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM


class Side:
    """A model, a prompt, and how many entries per head are to stay."""

    def __init__(self, folder: str, prompt: str, slots: int, window: int) -> None:
        self.tokens = load_file(prompt)["tokens"]
        self.slots, self.window = slots, window
        self.cache: DynamicCache | None = None
        self.full: DynamicCache | None = None
        self.position = 0
        self.model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def press(self, name: str) -> Any:
        """The press that keeps ``slots`` entries per head; None for the full cache."""
        removed = 1 - (self.slots + 0.5) / self.tokens.shape[1]  # kvpress rounds n x (1 - removed) down
        if name == "streaming-llm":
            return kvpress.StreamingLLMPress(removed)
        if name == "tova":
            return kvpress.TOVAPress(removed)
        snapkv = kvpress.SnapKVPress(removed, window_size=self.window)
        return {"full": None, "snapkv": snapkv, "adakv": kvpress.AdaKVPress(snapkv)}[name]

    def read(self, name: str, tokens: int | None = None) -> DynamicCache:
        """The cache after the prompt, or the first ``tokens`` of it."""
        cache, press = DynamicCache(config=self.model.config), self.press(name)
        with torch.inference_mode(), nullcontext() if press is None else press(self.model):
            self.model(self.tokens[:, :tokens], past_key_values=cache, logits_to_keep=1)
        return cache

    def prompt(self, press: str) -> dict[str, float]:
        """Seconds of the prompt."""
        begun = time.perf_counter()
        self.read(press)
        return {"seconds": time.perf_counter() - begun}

    def decode(self, press: str, steps: int) -> dict[str, float]:
        """Seconds of decode steps after the prompt, which the first call reads; further calls go on."""
        if self.cache is None:
            self.cache, self.position = self.read(press), self.tokens.shape[1]
        token = self.tokens[:, :1]
        with torch.inference_mode():
            begun = time.perf_counter()
            for _ in range(steps):
                at = torch.tensor([[self.position]])
                self.model(token, position_ids=at, past_key_values=self.cache, logits_to_keep=1)
                self.position += 1
            return {"seconds": time.perf_counter() - begun}

    def memory(self, press: str) -> dict[str, int]:
        """Growth of the peak resident size over the prompt, and the bytes of what the cache holds then."""
        caches: list[DynamicCache] = []
        self.read("full", 64)  # loads the kernels
        growth = peak_growth(lambda: caches.append(self.read(press)))
        return {"growth": growth, "stored": sum(x.keys.nbytes + x.values.nbytes for x in caches[0].layers)}

    def positions(self, press: str, out: str) -> dict[str, str]:
        """Writes bool ``kept [layers, KV heads, n]``."""
        kept = []
        if self.full is None:
            self.full = self.read("full")
        for index, layer in enumerate(self.read(press).layers):
            all_keys = self.full.layers[index].keys[0]
            masked = getattr(self.model.model.layers[index].self_attn, "masked_key_indices", None)
            if masked is None:
                kept.append(_found(layer.keys[0], all_keys))
            else:  # a head-wise press prunes nothing: it notes what decoding is not to see
                kept.append(torch.ones(all_keys.shape[:2], dtype=torch.bool))
                kept[-1][masked[1], masked[2]] = False
        save_file({"kept": torch.stack(kept)}, out)
        return {}

    def versions(self) -> dict[str, str]:
        """What is installed here."""
        from importlib.metadata import version

        return {"kvpress": version("kvpress"), "transformers": transformers.__version__, "torch": torch.__version__}


def _found(some: Tensor, every: Tensor) -> Tensor:
    """bool ``[heads, n]``: which of ``every [heads, n, d]`` are in ``some [heads, m, d]``, by their bits."""
    found = torch.zeros(every.shape[:2], dtype=torch.bool)
    for head in range(len(every)):
        names = {row.tobytes(): at for at, row in enumerate(every[head].numpy())}
        at = [names[row.tobytes()] for row in some[head].numpy()]
        found[head, at] = True
        assert int(found[head].sum()) == some.shape[1]
    return found


def main() -> None:
    folder, prompt, slots, window, threads = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(int(threads))
    side = Side(folder, prompt, int(slots), int(window))
    for line in sys.stdin:
        command = json.loads(line)
        do: Callable[..., Any] = getattr(side, command.pop("do"))
        print(json.dumps(do(**command)), flush=True)


if __name__ == "__main__":
    main()
