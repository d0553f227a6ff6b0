"""Turn a training state into a shipped checkpoint: weights, tokenizer, chat template, card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import evaluate
import train_byte
import train_task
from heedful.models import text
from heedful.models.tasks import vocabulary as vocab

SHIPPED = Path(__file__).parents[1] / "src" / "heedful" / "models" / "shipped"

TASK_CHAT = (
    "{{ bos_token + ' ' }}{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)
BYTE_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def task_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; words are apart by white space."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocab.WORDS)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = [AddedToken(word, special=True, normalized=False) for word in ("<pad>", "<bos>", "<eos>")]
    tokenizer.add_special_tokens(specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        padding_side="left", model_max_length=2048, clean_up_tokenization_spaces=False,
        chat_template=TASK_CHAT,
    )  # fmt: skip


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte, whose id is the byte's value; ``<|bos|>`` goes first."""
    # The byte-level pre-tokenizer writes bytes as letters: printable Latin-1 as itself, the rest from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    vocabulary = {letters[b]: b for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary | {"<|pad|>": text.PAD, "<|bos|>": text.BOS, "<|eos|>": text.EOS}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ("<|pad|>", "<|bos|>", "<|eos|>")
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", text.BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|eos|>",
        padding_side="left", model_max_length=2048, clean_up_tokenization_spaces=False,
        chat_template=BYTE_CHAT,
    )  # fmt: skip


def install(name: str, items: int) -> dict[str, object]:
    """Write checkpoint ``name`` from its training state; returns its card."""
    is_byte = name.startswith("byte")
    state_path = (train_byte.WORK if is_byte else train_task.WORK) / f"{name}.pt"
    state = torch.load(state_path, weights_only=False)
    model: LlamaForCausalLM
    if is_byte:
        model = train_byte.new_model(0)
    else:
        model = train_task.new_model(train_task.PRESETS[name], state["layers"], 0)
    model.load_state_dict(state["model"])
    model.eval()
    model.generation_config.max_length = None
    folder = SHIPPED / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (byte_tokenizer() if is_byte else task_tokenizer()).save_pretrained(folder)
    card: dict[str, object] = {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": model.config.num_hidden_layers,
        "seed": state["seed"],
        "steps": state["step"],
        "tokens": state["seen"],
        "minutes": round(state["seconds"] / 60, 1),
        "threads": 1,
    }
    if is_byte:
        card |= evaluate.byte_card(model)
    else:
        card |= evaluate.task_card(model, train_task.PRESETS[name].quoted, items)
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / "README.md").write_text(evaluate.readme(card))
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--items", type=int, default=100, help="items per task and length in the card")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(install(args.name, args.items), indent=1))


if __name__ == "__main__":
    main()
