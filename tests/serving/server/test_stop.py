"""Answers that end before a stop string."""

import re
from itertools import pairwise

import openai
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from heedful.serving.server import history_file
from heedful.serving.server.stop_strings import StopStrings

FINISHED = 'heedful_generations_total{how="finished"}'
TEXTS = st.text("ab\n", max_size=30)
STRINGS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4)


def plainly_cut(text, strings):
    """The text before the string that is complete first, character by character, and whether there is one."""
    for end in range(len(text) + 1):
        complete = [string for string in strings if text[:end].endswith(string)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(TEXTS, STRINGS, st.lists(st.integers(0, 30), max_size=10))
def test_the_same_text_ends_at_the_same_place_however_it_is_cut_into_pieces(text, strings, cuts):
    stop = StopStrings(strings)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    told = ""
    for begin, end in pairwise(places):
        told += stop.feed(text[begin:end])
        if not stop.found:
            held = text[len(told) : end]
            assert text.startswith(told) and (not held or any(string.startswith(held) for string in strings))
    assert (told + stop.rest(), stop.found) == plainly_cut(text, strings)
    assert stop.feed("more") == ("" if stop.found else plainly_cut("more", strings)[0])


def test_a_long_string_that_nearly_comes_again_and_again_is_found():
    stop = StopStrings(["a" * 500 + "b"])
    assert "".join(map(stop.feed, "a" * 2000)) == "a" * 1500
    assert (stop.feed("b"), stop.found) == ("", True)


@pytest.fixture(scope="module")
def ordinary(folder, tmp_path_factory):
    """A random model whose tokens are pieces of words, and parts of characters."""
    words = ["the question is whether naïve café owners answer in the end 日本語 or there, then, thereafter"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(set(pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(words[0])[0][0]))
    trainer = trainers.BpeTrainer(vocab_size=120, initial_alphabet=alphabet, special_tokens=["<end>"])
    tokenizer.train_from_iterator(words * 3, trainer)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, initializer_range=0.5, bos_token_id=0,
        eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    target = tmp_path_factory.mktemp("model") / "ordinary"
    LlamaForCausalLM(config).double().save_pretrained(target)
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", chat_template=template)
    fast.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def texts(ordinary):
    """Plain greedy generation after "end": the text of the first 0, 1, 2, ... 60 tokens."""
    model = LlamaForCausalLM.from_pretrained(ordinary, dtype=torch.float64).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ordinary)
    ids = tokenizer("end", return_tensors="pt")["input_ids"]
    new = model.generate(ids, max_new_tokens=60, do_sample=False)[0, ids.shape[1] :]
    assert len(new) == 60
    return [tokenizer.decode(new[:count]) for count in range(61)]


@pytest.fixture(scope="module")
def stopping(serve, ordinary):
    with serve(model=str(ordinary)) as asked:
        yield asked


def four_ways(asked, prompt="end", **options):
    """Text, reason and tokens of a completion and a chat, in one piece and streamed."""
    chat = asked.client.chat.completions.create
    said = {"model": "tiny", "messages": [{"role": "user", "content": prompt}]}
    for kind in (lambda **more: asked.complete(prompt, **more), lambda **more: chat(**said, **more)):
        whole = kind(**options)
        choice = whole.choices[0]
        text = choice.text if hasattr(choice, "text") else choice.message.content
        yield text, choice.finish_reason, whole.usage.completion_tokens
        chunks = list(kind(stream=True, **options))
        parts = [c.text if hasattr(c, "text") else c.delta.content or "" for chunk in chunks for c in chunk.choices]
        yield "".join(parts), chunks[-1].choices[0].finish_reason, chunks[-1].usage.completion_tokens


@pytest.mark.parametrize(
    "stop",
    [
        "aïv",  # inside of a token
        "� naïver",  # across tokens, and a byte that is no character
        " th",  # at the very start
        ["nowhere", "thereafter", "eret", "after the"],
        [" thereafter the na", "r the", "\n"],  # one begins within another
    ],
)
def test_answer_ends_before_a_stop_string(stopping, texts, stop):
    strings = [stop] if isinstance(stop, str) else stop
    expected, _ = plainly_cut(texts[60], strings)
    tokens = next(count for count, text in enumerate(texts) if plainly_cut(text, strings)[1])
    assert 0 < tokens < 50 and (expected == "") == (stop == " th")
    before = stopping.idle()
    assert list(four_ways(stopping, stop=stop, max_tokens=60)) == [(expected, "stop", tokens)] * 4
    after = stopping.idle()
    assert {name for name in after if name.startswith("heedful_generations") and after[name] > before[name]} == {
        FINISHED
    }
    assert after[FINISHED] == before[FINISHED] + 4
    assert stopping.server.scheduler.history.values[-4:] == (tokens,) * 4
    # At the very end of the cap it is still the string that ends the answer; a token less, and it is the cap.
    for cap, end in ((tokens, (expected, "stop", tokens)), (tokens - 1, (texts[tokens - 1], "length", tokens - 1))):
        if cap:
            assert list(four_ways(stopping, stop=stop, max_tokens=cap)) == [end] * 4


@pytest.mark.parametrize("stop", ["nowhere", ["ZZ", " thz", "naïvez", "r the z"], []])
def test_strings_that_never_come_change_nothing(stopping, texts, stop):
    assert list(four_ways(stopping, stop=stop, max_tokens=60)) == [(texts[60], "length", 60)] * 4


def test_bytes_as_tokens(asked, plain_answers):
    expected, found = plainly_cut(plain_answers("def main(", [40])[40][0], ["ź���", "D"])
    assert found and expected.endswith("Uh")
    answers = list(four_ways(asked, "def main(", stop=["ź���", "D"], max_tokens=40))
    assert answers[0] == answers[1] and answers[0][:2] == (expected, "stop")
    assert answers[2] == answers[3]  # to another prompt, for this model's chat template says more


def test_stop_strings_count_in_content_alone(stopping, texts, monkeypatch):
    """Of a model whose answers are parsed: not in what it thinks, nor in what it calls."""
    call = {"type": "function", "function": {"name": "look", "arguments": "{content}"}}
    template = {
        "start_anchor": "end",
        "fields": {
            "reasoning_content": {"open": " there�本�", "close": "� naïve", "content": "text"},
            "tool_calls": {
                "open": "���h", "close": "c qu", "repeats": True, "content": "text", "transform": call,
            },
            "content": {"content": "text"},
        },
    }  # fmt: skip
    monkeypatch.setattr(stopping.server.served.tokenizer, "response_template", template, raising=False)
    thought, content, called, more = re.fullmatch(
        " there�本�(.*?)� naïve(.*?)���h(.*?)c qu(.*)", texts[60], re.DOTALL
    ).groups()
    assert "qu" in thought and "qu" not in content and "qu" in more
    assert "therether" in called and "therether" not in content + more
    create = stopping.client.chat.completions.create
    for stop, text, calls, reason in (
        (["本"], content.partition("本")[0], [], "stop"),
        (["qu"], content + more.partition("qu")[0], [called], "tool_calls"),
        (["after", "therether"], content + more.partition("after")[0], [called], "tool_calls"),
    ):
        options = {"model": "tiny", "messages": [{"role": "user", "content": "end"}], "stop": stop, "max_tokens": 60}
        whole = create(**options)
        message = whole.choices[0].message
        assert (message.reasoning_content, message.content) == (thought, text)
        assert [call.function.arguments for call in message.tool_calls or ()] == calls
        chunks = list(create(**options, stream=True))
        deltas = [chunk.choices[0].delta for chunk in chunks]
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == thought
        assert "".join(delta.content or "" for delta in deltas) == text
        assert [call.function.arguments for delta in deltas for call in delta.tool_calls or ()] == calls
        assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == reason
        assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens < 60
    stopping.idle()


def test_failure_of_a_request_with_stop_strings_is_told(serve, ordinary):
    with serve(model=str(ordinary), request_timeout=0.3) as asked, asked.engine.pause():
        with pytest.raises(openai.InternalServerError) as error:
            asked.complete("end", stop="nowhere", max_tokens=50)
        assert error.value.code == "timeout"


def test_history_keeps_what_ended_just_before_the_server_did(serve, ordinary, texts, tmp_path):
    history = tmp_path / "history.json"
    with serve(model=str(ordinary), history=history, window=4) as asked:
        tokens = asked.complete("end", stop="aïv", max_tokens=60).usage.completion_tokens
    assert history_file.read(history)[-1] == tokens
