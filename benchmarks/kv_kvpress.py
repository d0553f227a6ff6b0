"""The same methods in kvpress: do they keep the same entries, and what do they cost?

    python benchmarks/kv_kvpress.py [--prompt 4096] [--share 0.1] [--window 32] [--threads 1] [--quick]

kvpress (NVIDIA, on PyPI) works with older versions of Transformers than this project, so the script makes an
environment for it in a cache folder, once: about 1.4 GB on disk, one to two minutes. Both sides load one
model with random weights from one folder and read one prompt, each in a process of its own; the two take
turns, and neither works while the other does.

First, which entries stay: ``equal sets`` is the share of layers and KV heads whose kept positions are the
same, ``equal entries`` the share of all kept entries that both keep. The model's query weights are scaled up
so that attention is as uneven as in trained models; with the plain random weights all scores are about equal
and rounding decides. Second, the time of the prompt, eviction included, and of the decode steps after it.
Third, memory: ``peak MB`` is the growth of the peak resident size over the prompt in a fresh process,
``stored MB`` the cache's tensors after.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from heedful.kv import TOVA, AdaKV, EvictingCache, Full, Policy, SnapKV, StreamingLLM
from heedful.kv.slots import Slots
from kvbench import arguments, clock, decode, fresh_process, interleaved, llama, ratio, report, use
from kvbench.resident import peak_growth

PINS = ("kvpress==0.5.5", "transformers==5.2.0", "accelerate==1.15.0", "datasets==5.2.0", "peft==0.21.2")
NAMES = ("full", "streaming-llm", "tova", "snapkv", "adakv")
LAYERS = 4
SHARPER = 8.0
"""Factor on the query weights: the logits' standard deviation is about 0.2 with the plain weights."""


class TOVAAndLast(TOVA):
    """TOVA as kvpress has it: the newest entry always stays."""

    def protected(self, slots: Slots) -> Tensor | None:
        return slots.recent(1)


@dataclass(frozen=True)
class Work:
    """What both sides do.

    Attributes:
        folder: of the model.
        prompt: the file with the prompt's tokens.
        length: of the prompt.
        slots: entries that stay per KV head, on average.
        window: the observation window.
        threads: of torch.
    """

    folder: str
    prompt: str
    length: int
    slots: int
    window: int
    threads: int

    def policy(self, name: str) -> Policy:
        """Ours, configured to kvpress's definition; ``"tova, as published"`` is the paper's."""
        return {
            "full": Full(),
            "streaming-llm": StreamingLLM(self.slots, sinks=4),
            "tova": TOVAAndLast(self.slots),
            "tova, as published": TOVA(self.slots),
            "snapkv": SnapKV(self.slots, observation_window=self.window, kernel=5, pooling="avg"),
            "adakv": AdaKV(self.slots, observation_window=self.window, kernel=5, pooling="avg"),
        }[name]

    def read(self, model: Any, name: str, tokens: int | None = None) -> EvictingCache:
        """Our cache after the prompt, or the first ``tokens`` of it."""
        policy = self.policy(name)
        cache = EvictingCache(policy, model, self.length if isinstance(policy, Full) else None)
        use(model, cache)
        with torch.inference_mode():
            model(load_file(self.prompt)["tokens"][:, :tokens], past_key_values=cache, logits_to_keep=1)
        return cache

    def load(self) -> Any:
        """The model."""
        transformers.logging.disable_progress_bar()
        return LlamaForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()


def environment() -> Path:
    """The Python of an environment with kvpress; made if it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heedful" / "kvpress-venv"
    python, stamp = cache / "bin" / "python", cache / "installed.txt"
    pins = [*PINS, f"torch=={torch.__version__}"]  # the very build used here: not a larger one for another device
    if not stamp.is_file() or stamp.read_text().split() != pins:
        print(f"making {cache}", file=sys.stderr)
        venv.create(cache, clear=True, with_pip=True)
        if subprocess.run([python, "-m", "pip", "install", "-q", *pins]).returncode:
            sys.exit(f"kv_kvpress: pip could not install {' '.join(pins)}; its message is above")
        stamp.write_text("\n".join(pins))
    return python


@contextmanager
def theirs(python: Path, work: Work) -> Iterator[Callable[..., Any]]:
    """A process with kvpress, as a function that gives it a command and waits for the answer."""
    script = Path(__file__).parent / "kvbench" / "kvpress_side.py"
    command = [python, script, work.folder, work.prompt, work.slots, work.window, work.threads]
    with subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(do: str, **options: Any) -> Any:
            process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError("kvpress's process ended; its message is above")
            return json.loads(answer)

        yield ask
        process.stdin.close()


def their_prompt(ask: Callable[..., Any], name: str) -> float:
    """Seconds that kvpress takes to read the prompt."""
    seconds: float = ask("prompt", press=name)["seconds"]
    return seconds


def their_steps(ask: Callable[..., Any], name: str, steps: int) -> float:
    """Seconds of so many decode steps after it."""
    seconds: float = ask("decode", press=name, steps=steps)["seconds"]
    return seconds


def our_memory(work: Work, name: str) -> dict[str, int]:
    """As :meth:`kvpress_side.Side.memory`; run in a process of its own."""
    torch.set_num_threads(work.threads)
    model, caches = work.load(), []
    work.read(model, "full", 64)  # loads the kernels
    growth = peak_growth(lambda: caches.append(work.read(model, name)))
    return {"growth": growth, "stored": sum(caches[0].usage().nbytes)}


def our_positions(model: Any, work: Work, name: str) -> Tensor:
    """bool ``[layers, KV heads, n]``: what stays."""
    cache = work.read(model, name)
    kept = torch.zeros(LAYERS, cache.slots(0).heads, work.length, dtype=torch.bool)
    for layer in cache.evicting:
        position = cache.slots(layer).position[0]
        head, column = (position >= 0).nonzero(as_tuple=True)
        kept[layer, head, position[head, column].long()] = True
    return kept


def agreement(model: Any, work: Work, ask: Callable[..., Any], folder: Path) -> Iterator[Mapping[str, Any]]:
    """One row per method."""
    for name in ("streaming-llm", "tova", "tova, as published", "snapkv", "adakv"):
        file = str(folder / "kept.safetensors")
        ask("positions", press=name.split(",")[0], out=file)
        ours, other = our_positions(model, work, name), load_file(file)["kept"]
        differ = (ours ^ other).sum(dim=-1)
        yield {
            "method": name,
            "kept, ours": int(ours.sum()),
            "kept, kvpress": int(other.sum()),
            "equal sets": float((differ == 0).float().mean()),
            "equal entries": float((ours & other).sum() / other.sum()),
            "most differing": int(differ.max()),
        }


def prefill(python: Path, work: Work, model: Any, rounds: int) -> list[Mapping[str, Any]]:
    """One row per method: seconds of the prompt, eviction included."""
    with theirs(python, work) as ask:
        works = {f"ours {name}": clock(partial(work.read, model, name)) for name in NAMES}
        works |= {f"kvpress {name}": partial(their_prompt, ask, name) for name in NAMES}
        seconds = interleaved(works, rounds)
    rows = []
    for name in NAMES:
        mine, other = seconds[f"ours {name}"], seconds[f"kvpress {name}"]
        middle, low, high = ratio(mine, other)
        rows.append(
            {
                "method": name,
                "s, ours": statistics.median(mine),
                "s, kvpress": statistics.median(other),
                "ours / kvpress": middle,
                "25 %": low,
                "75 %": high,
                "x own full": ratio(mine, seconds["ours full"])[0],
                "x its own full": ratio(other, seconds["kvpress full"])[0],
            }
        )
    return rows


def decoding(python: Path, work: Work, model: Any, rounds: int, steps: int) -> list[Mapping[str, Any]]:
    """One row per method: a decode step after the prompt."""
    with ExitStack() as stack:
        works = {}
        for name in NAMES:  # one process each: the mask of a head-wise press belongs to the model
            ask = stack.enter_context(theirs(python, work))
            works[f"ours {name}"] = partial(decode, model, work.read(model, name), steps)
            works[f"kvpress {name}"] = partial(their_steps, ask, name, steps)
        seconds = interleaved(works, rounds)
    rows = []
    for name in NAMES:
        mine, other = seconds[f"ours {name}"], seconds[f"kvpress {name}"]
        middle, low, high = ratio(mine, other)
        rows.append(
            {
                "method": name,
                "ms/step, ours": 1e3 * statistics.median(mine) / steps,
                "ms/step, kvpress": 1e3 * statistics.median(other) / steps,
                "ours / kvpress": middle,
                "25 %": low,
                "75 %": high,
            }
        )
    return rows


def memory(python: Path, work: Work) -> Iterator[Mapping[str, Any]]:
    """One row per method: peak and what is stored, both sides in fresh processes."""
    for name in NAMES:
        with theirs(python, work) as ask:
            other = ask("memory", press=name)
        mine = fresh_process(our_memory, work, name)
        yield {
            "method": name,
            "peak MB, ours": mine["growth"] / 1e6,
            "peak MB, kvpress": other["growth"] / 1e6,
            "ours / kvpress": mine["growth"] / other["growth"],
            "stored MB, ours": mine["stored"] / 1e6,
            "stored MB, kvpress": other["stored"] / 1e6,
            "stored, ours / kvpress": mine["stored"] / other["stored"],
        }


def prepare(folder: Path, length: int, slots: int, window: int, threads: int) -> Work:
    """Writes the model and the prompt."""
    work = Work(str(folder / "model"), str(folder / "prompt.safetensors"), length, slots, window, threads)
    model = llama(layers=LAYERS)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= SHARPER
    model.save_pretrained(work.folder)
    tokens = torch.randint(model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    save_file({"tokens": tokens}, work.prompt)
    return work


def main() -> None:
    given = arguments(__doc__, minutes=5, prompt=4096, share=0.1, window=32, steps=8, rounds=5)
    length, rounds = (512, 1) if given.quick else (given.prompt, given.rounds)
    python = environment()
    with tempfile.TemporaryDirectory() as made:
        work = prepare(Path(made), length, int(given.share * length), given.window, given.threads)
        model = work.load()
        with theirs(python, work) as ask:
            note = "kvpress {kvpress} on Transformers {transformers}, PyTorch {torch}".format_map(ask("versions"))
            rows = list(agreement(model, work, ask, Path(made)))
        report(f"Entries that stay of {length}: {work.slots} per KV head", rows, given, note, part="entries")
        rows = prefill(python, work, model, rounds)
        report(f"Reading {length} tokens, {given.threads} thread(s)", rows, given, note, part="prefill")
        rows = decoding(python, work, model, 2 * rounds, given.steps)
        report(f"Decoding after {length} tokens, {given.threads} thread(s)", rows, given, note, part="decode")
        rows = list(memory(python, work))
        report(f"Memory of reading {length} tokens", rows, given, note, part="memory")


if __name__ == "__main__":
    main()
