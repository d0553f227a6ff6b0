"""Anybody's model and prompts: found, checked while that is cheap, and only then loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heedful import models
from heedful.kv.baselines import Full
from heedful.kv.commands.prompts import Prompt
from heedful.lab.errors import LabError

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Source:
    """Where a model is, before it is loaded.

    Attributes:
        name: as given.
        path: what ``from_pretrained`` is given.
        local: what it is given as ``local_files_only``.
        config: the model's configuration.
        tokenizer: its tokenizer.
        hollow: the model without weights.
    """

    name: str
    path: str
    local: bool
    config: Any
    tokenizer: Any
    hollow: Any


@dataclass(frozen=True, eq=False)
class Text:
    """A prompt as token ids.

    Attributes:
        prompt: the line of the prompts file.
        tokens: int64 ``[P]``.
        parts: ends of the parts that it is given in; a policy decides about the first when it has been read.
        answer: int64 ``[A]``: the answer, or None.
    """

    prompt: Prompt
    tokens: Tensor
    parts: tuple[int, ...]
    answer: Tensor | None

    @property
    def coming(self) -> Tensor:
        """int64: what comes after the first part, the answer included."""
        assert self.answer is not None
        return torch.cat([self.tokens[self.parts[0] :], self.answer])


def check_dtype(dtype: str) -> None:
    """Raises LabError for an unknown dtype."""
    if dtype not in DTYPES:
        raise LabError(f"--dtype {dtype!r}: must be one of {', '.join(DTYPES)}")


def find(name: str) -> Source:
    """Tokenizer and configuration, no weights yet, of a shipped model, a folder, or a Hugging Face id.

    Raises LabError if there is no such model, or if it is not supported.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        found = models.find(name)
    except ValueError as error:
        raise LabError(f"--{error}") from error
    try:
        config = AutoConfig.from_pretrained(found.where, local_files_only=found.local)
        tokenizer = AutoTokenizer.from_pretrained(found.where, local_files_only=found.local)
    except (OSError, ValueError, KeyError) as error:
        raise LabError(
            f"--model {name}: neither a shipped model ({', '.join(models.names())}) nor one that "
            f"transformers can load from a folder or the hub: {_first_line(error)}"
        ) from error
    return Source(name, found.where, found.local, config, tokenizer, _hollow(name, config))


def _hollow(name: str, config: Any) -> Any:
    """The model without weights. Raises LabError if it is no causal language model, or the cache refuses it."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            hollow = AutoModelForCausalLM.from_config(config)
        causal = all(getattr(module, "is_causal", None) is not False for module in hollow.modules())
    except ValueError:
        causal = False
    if not causal:
        raise LabError(f"--model {name}: family {config.model_type!r} is not a causal language model")
    try:
        Full().cache_for(hollow)
    except ValueError as error:
        raise LabError(f"--model {name}: {error}") from error
    return hollow


def load(source: Source, dtype: str, device: torch.device) -> Any:
    """The model, in evaluation mode. Raises LabError if its weights cannot be loaded."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(source.path, dtype=dtype, local_files_only=source.local)
    except Exception as error:  # every format of weights has errors of its own
        raise LabError(f"--model {source.name}: its weights cannot be loaded: {_first_line(error)}") from error
    model.to(device)  # type: ignore[arg-type]
    return model.eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def encode(source: Source, prompts: Sequence[Prompt], chat: bool) -> list[Text]:
    """The prompts as token ids: as they are, or as messages in the tokenizer's chat template.

    The pieces of a prompt are encoded apart, so that no token lies in two of them and every protocol gives the model
    the same tokens.

    Raises LabError if there is no template, if it hides where a piece ends, or if a prompt has no token.
    """
    tokenizer = source.tokenizer
    if chat and not tokenizer.chat_template:
        raise LabError(f"--chat: the tokenizer of {source.name} has no chat template")
    texts = []
    for prompt in prompts:
        where = f"prompt in line {prompt.line}"
        try:
            pieces = _in_chat(tokenizer, prompt, where) if chat else prompt.pieces
            ids = [
                list(tokenizer(piece, add_special_tokens=not chat and i == 0)["input_ids"])
                for i, piece in enumerate(pieces)
            ]
            answer = None if prompt.answer is None else tokenizer(prompt.answer, add_special_tokens=False)["input_ids"]
        except LabError:
            raise
        except Exception as error:  # tokenizers and templates raise anything
            raise LabError(f"{where}: the tokenizer of {source.name} cannot encode it: {_first_line(error)}") from error
        tokens = torch.tensor([token for piece in ids for token in piece], dtype=torch.int64)
        decided = sum(len(piece) for piece in ids[: prompt.first])
        parts = (decided,) if decided == len(tokens) else (decided, len(tokens))
        if not (decided and ids[-1]):
            raise LabError(f"{where}: has no token for the tokenizer of {source.name}")
        if int(tokens.max()) >= source.config.get_text_config(decoder=True).vocab_size:
            raise LabError(f"--model {source.name}: its tokenizer makes token ids that the model does not have")
        texts.append(Text(prompt, tokens, parts, None if answer is None else torch.tensor(answer, dtype=torch.int64)))
    return texts


def _in_chat(tokenizer: Any, prompt: Prompt, where: str) -> list[str]:
    """The pieces with the chat template around them: the first two are one message of the user's."""
    asked, context = "".join(prompt.pieces[:2]), prompt.pieces[0]
    said = [{"role": "user", "content": asked}]
    start = _rendered(tokenizer, said)
    if len(prompt.pieces) == 1:
        return [start]
    cut = start.find(asked) + len(context)
    if asked not in start:
        raise LabError(f"{where}: the chat template changes the text, so that the end of the context cannot be told")
    pieces = [start[:cut], start[cut:]]
    if len(prompt.pieces) > 2:
        answer, again = prompt.pieces[2:]
        whole = _rendered(
            tokenizer, [*said, {"role": "assistant", "content": answer}, {"role": "user", "content": again}]
        )
        if not whole.startswith(start):
            raise LabError(f"{where}: the chat template changes what was said, so that it cannot be asked again")
        pieces.append(whole[len(start) :])
    return pieces


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def check_positions(source: Source, texts: Sequence[Text], max_new_tokens: int, notice: Callable[[str], None]) -> None:
    """Tells ``notice`` if the longest prompt and its answer go beyond the positions that the model knows."""
    most = getattr(source.config.get_text_config(decoder=True), "max_position_embeddings", None)
    longest = max(texts, key=lambda text: len(text.tokens))
    if most is not None and len(longest.tokens) + max_new_tokens > most:
        notice(
            f"warning: the prompt in line {longest.prompt.line} has {len(longest.tokens)} tokens; with "
            f"{max_new_tokens} new ones that is beyond the {most} positions that {source.name} was made for"
        )
