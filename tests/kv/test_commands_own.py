"""``heedful compare kv`` on one's own model and prompts: what is measured, and how it refuses."""

import json
import logging

import huggingface_hub
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from heedful.cli import main
from heedful.kv.commands import loading, own
from heedful.kv.commands.prompts import Prompt
from heedful.kv.faithfulness import faithfulness, reference
from heedful.kv.policies import make
from heedful.lab.errors import LabError
from heedful.lab.report.comparisons import read_comparisons

WORDS = [f"w{i}" for i in range(62)]
NEW = 12


def tokenizer(chat_template=None):
    """One token per word, ``w0`` to ``w61``; anything else is unknown."""
    table = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*WORDS, "[UNK]", "[END]"])}, "[UNK]"))
    table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=table, unk_token="[UNK]", chat_template=chat_template)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama", torch.float32)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A saved model of random weights with its tokenizer."""
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prompts():
    """Prompts of 20, 30 and 41 words."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=n)) for n in (20, 30, 41)]


@pytest.fixture
def compare(capsys, tmp_path, monkeypatch, folder):
    """``compare(lines, *words)``: exit status, standard output and standard error for a file of these lines."""
    monkeypatch.chdir(tmp_path)

    def call(lines, *words):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
        given = ("--model", folder, "--prompts", "p.jsonl", "--max-new-tokens", NEW, *words)
        with pytest.raises(SystemExit) as end:
            main(["compare", "kv", *map(str, given)])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


def rows_of(out):
    (table,) = json.loads(out)["tables"].values()
    return {(row["policy"], row["budget"]): row for row in table["rows"]}


def ids(prompt):
    return torch.tensor([int(word[1:]) for word in prompt.split()])


def test_without_answers_it_measures_what_faithfulness_measures(compare, model, prompts):
    status, out, err = compare(
        [{"prompt": p} for p in prompts], "--policies", "h2o,tova", "--budgets", "0.5,12", "--json"
    )
    assert (status, err) == (0, "")
    rows = rows_of(out)
    assert list(rows) == [("full", ""), ("h2o", "50%"), ("h2o", "12"), ("tova", "50%"), ("tova", "12")]
    expected = [reference(model, ids(p), NEW) for p in prompts]
    for (spec, budget), row in rows.items():
        slots = {"": [None] * 3, "50%": [10, 15, 20], "12": [12] * 3}[budget]
        found = [faithfulness(model, make(spec, n), e) for n, e in zip(slots, expected, strict=True)]
        assert row["kl"] == pytest.approx(np.mean([f.kl for f in found]), abs=1e-5)
        assert row["agreement"] == pytest.approx(np.mean([f.agreement for f in found]))
        assert row["divergence"] == pytest.approx(np.mean([f.divergence for f in found]))
        assert row["diverged"] == pytest.approx(np.mean([f.divergence < NEW for f in found]))
        if budget:
            assert row["budget_slots"] == pytest.approx(np.mean(slots))
            assert row["slots"] == pytest.approx(np.mean(slots))
            assert row["peak_slots"] == pytest.approx(np.mean([20, 30, 41]))
    assert rows["h2o", "12"]["kl"] > 0.01


def test_a_budget_for_everything_changes_nothing(compare, prompts):
    status, out, _ = compare([{"prompt": p} for p in prompts], "--budgets", "500", "--json")
    assert status == 0
    rows = rows_of(out)
    assert len(rows) == 16
    for row in rows.values():
        assert row["kl"] == pytest.approx(0, abs=1e-5)
        assert (row["agreement"], row["diverged"], row["divergence"]) == (1, 0, NEW)
        assert row["slots"] == pytest.approx(np.mean([20, 30, 41]) + NEW - 1)


def test_with_answers_it_compares_normalised_text(compare, model, prompts):
    answers = [
        " ".join(f"w{i}" if i < 62 else "[END]" for i in reference(model, ids(p), NEW).tokens.tolist()) for p in prompts
    ]
    lines = [
        {"prompt": prompts[0], "answer": f"  {answers[0].upper()} ".replace(" ", "\n")},
        {"prompt": prompts[1], "answer": " ".join(answers[1].split()[:4])},
        {"prompt": prompts[2], "answer": "something else"},
    ]
    status, out, err = compare(lines, "--policies", "local", "--budgets", "5,500", "--json")
    assert (status, err) == (0, "")
    rows = rows_of(out)
    for key in (("full", ""), ("local", "500")):
        assert (rows[key]["exact"], rows[key]["contains"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
        assert rows[key]["contains_difference"] == 0
    assert rows["local", "5"]["slots"] == 5
    assert rows["full", ""]["exact_low"] < 1 / 3 < rows["full", ""]["exact_high"]


def test_printed_table_and_stored_comparison(compare, folder, prompts, tmp_path):
    status, out, _ = compare([{"prompt": p} for p in prompts], "--policies", "raas,h2o", "--budgets", "50%")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "Own prompts without answers"
    assert [line.split("  ")[0].strip() for line in lines[2:5]] == ["full", "raas", "h2o"]
    assert " decoding " in lines[3] and " prompt, decoding " in lines[4]
    assert "3 prompts of 20 to 41 tokens, up to 12 new ones" in " ".join(lines)
    (stored,), _ = read_comparisons(tmp_path / "runs")
    assert stored.title == f"Policies on {folder}"
    assert stored.facts["dtype"] == "float32" and stored.facts["device"] == "cpu"
    assert stored.tables["Own prompts without answers"]["policy"].to_list() == ["full", "raas", "h2o"]
    assert stored.figures[0][0] == "Own prompts without answers: kl against slots"


def test_a_shipped_model_by_name_in_another_dtype(compare, tmp_path):
    lines = [{"prompt": f"<bos> K1 V2 K3 V{i} <q> K3", "answer": f"V{i}"} for i in (4, 5)]
    words = ("--model", "task-mini-1", "--policies", "full", "--max-new-tokens", "1", "--dtype", "bfloat16", "--json")
    status, out, _ = compare(lines, *words)
    assert status == 0
    (row,) = rows_of(out).values()
    assert row["exact"] == 1 and row["tokens_per_s"] is None
    # 7 tokens of prompt and 1 new one; 3 layers, 2 KV heads, keys and values of 16 in 2 bytes, a position in 4.
    assert row["bytes"] == 8 * 3 * 2 * (2 * 16 * 2 + 4)
    assert json.loads(out)["facts"]["dtype"] == "bfloat16"


@pytest.fixture
def chatty(model, tmp_path):
    """``chatty(template)``: a saved model whose tokenizer has this chat template, as a source."""

    def make(template):
        path = tmp_path / "chatty"
        model.save_pretrained(path)
        tokenizer(template).save_pretrained(path)
        return loading.find(str(path))

    return make


TEMPLATE = "{% for m in messages %}w1 {{ m['content'] }} w2 {% endfor %}{% if add_generation_prompt %}w3 {% endif %}"


def test_a_chat_template_goes_around_the_prompt(compare, folder, prompts, chatty):
    (text,) = loading.encode(chatty(TEMPLATE), [Prompt(1, (prompts[0],), 1, None)], chat=True)
    assert text.tokens.tolist() == [1, *ids(prompts[0]).tolist(), 2, 3]
    status, _, err = compare([{"prompt": prompts[0]}], "--chat")
    assert (status, err.splitlines()[-1]) == (2, f"error: --chat: the tokenizer of {folder} has no chat template")


def test_the_end_of_the_context_is_found_in_a_chat(chatty):
    said = "{{ 'w1 ' if m['role'] == 'user' else 'w3 ' }}{{ m['content'] }} w2 "
    source = chatty(f"{{% for m in messages %}}{said}{{% endfor %}}{{% if add_generation_prompt %}}w3 {{% endif %}}")
    agnostic = Prompt(1, ("w10 w11 ", "w12 w13"), 1, "w4")
    reask = Prompt(2, ("w10 w11 ", "w12 w13", "w14", "w15"), 2, "w4")
    one, two = loading.encode(source, [agnostic, reask], chat=True)
    assert one.tokens.tolist() == [1, 10, 11, 12, 13, 2, 3] and one.parts == (3, 7)
    assert two.tokens.tolist() == [1, 10, 11, 12, 13, 2, 3, 14, 2, 1, 15, 2, 3] and two.parts == (7, 13)
    assert one.coming.tolist() == [12, 13, 2, 3, 4]


def test_a_chat_template_that_hides_where_things_end_is_refused(chatty):
    shouting = chatty("{% for m in messages %}w1 {{ m['content'] | upper }} w2 {% endfor %}w3")
    with pytest.raises(LabError, match="line 7: the chat template changes the text"):
        loading.encode(shouting, [Prompt(7, ("w10 w11 ", "w12"), 1, None)], chat=True)
    with pytest.raises(LabError, match="line 8: the chat template changes what was said"):
        loading.encode(chatty(TEMPLATE), [Prompt(8, ("w10 ", "w12", "w13", "w14"), 2, "w4")], chat=True)


def test_agnostic_prompts_are_cut_before_the_question_is_read(compare, model, prompts):
    lines = [{"context": p, "question": " w1 w2 w3 w4"} for p in prompts]
    words = ("--protocol", "agnostic", "--policies", "h2o,snapkv:observation_window=4", "--budgets", "8", "--json")
    status, out, err = compare(lines, *words)
    assert (status, err) == (0, "")
    rows = rows_of(out)
    given = [(ids(p + " w1 w2 w3 w4"), (len(p.split()), len(p.split()) + 4)) for p in prompts]
    expected = [reference(model, tokens, NEW, parts=parts) for tokens, parts in given]
    for spec in ("h2o", "snapkv:observation_window=4"):
        found = [
            faithfulness(model, make(spec, 8), e, parts=parts) for e, (_, parts) in zip(expected, given, strict=True)
        ]
        assert rows[spec, "8"]["kl"] == pytest.approx(np.mean([f.kl for f in found]), abs=1e-5)
        assert rows[spec, "8"]["agreement"] == pytest.approx(np.mean([f.agreement for f in found]))
    assert rows["snapkv:observation_window=4", "8"]["slots"] == 8 + 4 + NEW - 1
    assert json.loads(out)["facts"]["protocol"] == "agnostic"
    # The same tokens, but decided about when the question has been read.
    _, out, _ = compare(lines, "--policies", "snapkv:observation_window=4", "--budgets", "8", "--json")
    aware = rows_of(out)
    assert aware["snapkv:observation_window=4", "8"]["slots"] == 8 + NEW - 1
    assert aware["snapkv:observation_window=4", "8"]["kl"] != rows["snapkv:observation_window=4", "8"]["kl"]
    assert aware["full", ""]["slots"] == rows["full", ""]["slots"]


def test_reask_prompts_are_cut_after_the_first_question_and_judged_by_the_second(compare, model, prompts):
    def line(prompt, answer):
        return {"context": prompt, "questions": [" w1 w2", " w3"], "answers": [" w4 w5 w6", answer]}

    given = ids(prompts[0] + " w1 w2 w4 w5 w6 w3")
    said = reference(model, given, NEW, parts=(22, 26)).tokens.tolist()
    answer = " ".join(f"w{i}" if i < 62 else "[END]" for i in said)
    words = ("--protocol", "reask", "--policies", "local,oracle", "--budgets", "10", "--json")
    status, out, _ = compare([line(prompts[0], answer), line(prompts[1], "something else")], *words)
    assert status == 0
    rows = rows_of(out)
    assert rows["full", ""]["exact"] == 0.5
    assert rows["local", "10"]["slots"] == 10
    assert rows["oracle", "10"]["slots"] == 10 + 4 + NEW - 1


def test_a_prompt_that_was_read_once_for_all_gives_what_each_policy_gets_by_itself(folder, model, prompts):
    source = loading.find(str(folder))
    texts = loading.encode(source, [Prompt(i, (p,), 1, None) for i, p in enumerate(prompts)], chat=False)
    specs = ["snapkv:observation_window=4", "cake:observation_window=4", "tova", "h2o"]
    field = own.field_for(specs, [9], texts, None)
    together = own.run(model, source.tokenizer, field, texts, NEW, lambda *_: None)
    for contender, mine in zip(field, together, strict=True):
        for text, answered in zip(texts, mine, strict=True):
            alone = faithfulness(model, contender.policy, reference(model, text.tokens, NEW))
            assert answered.scores["kl"] == pytest.approx(alone.kl, abs=1e-6)
            assert answered.scores["divergence"] == alone.divergence
            assert answered.usage.slots == alone.usage.slots
            assert answered.usage.peak_slots == alone.usage.peak_slots


def test_generation_stops_at_the_models_end(model, monkeypatch):
    assert own.stop_tokens(model, tokenizer()) == ()
    monkeypatch.setattr(model.generation_config, "eos_token_id", [7, 9])
    assert own.stop_tokens(model, tokenizer()) == (7, 9)
    monkeypatch.setattr(model.generation_config, "eos_token_id", 7)
    assert own.stop_tokens(model, tokenizer()) == (7,)


def test_a_prompt_beyond_the_models_positions_is_warned_about(compare):
    status, _, err = compare([{"prompt": "w1 " * 505}], "--policies", "local")
    assert status == 0
    assert err.startswith("warning: the prompt in line 1 has 505 tokens; with 12 new ones that is beyond the 512")


GOOD = {"prompt": "w1 w2 w3 w4 w5 w6 w7 w8"}
FILES = {
    "not JSON": (
        [GOOD, "{prompt"],
        ("p.jsonl, line 2: not JSON (Expecting property name enclosed in double quotes, column 2)\n",),
    ),
    "not an object": ([GOOD, "", "[1]"], ("line 3: not an object",)),
    "no prompt": (['{"text": "a"}'], ('line 1: has no "prompt"',)),
    "empty prompt": ([GOOD, {"prompt": "  "}], ('line 2: "prompt" is empty',)),
    "prompt not a string": ([{"prompt": 3}], ('line 1: "prompt" is 3, not a string',)),
    "answer not a string": ([{"prompt": "a", "answer": ["b"]}], ('line 1: "answer" is ["b"], not a string',)),
    "answers for some": ([{**GOOD, "answer": "b"}, GOOD], ('line 2: has no "answer", but line 1 has one',)),
    "answers for others": ([GOOD, {**GOOD, "answer": "b"}], ('line 2: has an "answer", but line 1 has none',)),
    "nothing": (["", " "], ("holds no prompt",)),
}
SPLIT = {"context": "w1 w2", "question": "w3"}
ASKED = {"context": "w1 w2", "questions": ["w3", "w4"], "answers": ["w5", "w6"]}
PROTOCOL_FILES = {
    "a prompt that is not split": ("agnostic", GOOD, 'line 1: has no "context"; write {"context": "...", "question": '),
    "no question": ("agnostic", {"context": "w1"}, 'line 1: has no "question"'),
    "no question, aware": ("aware", {"context": "w1"}, 'line 1: has no "question"'),
    "an empty question": ("agnostic", {**SPLIT, "question": " "}, 'line 1: "question" is empty'),
    "one question of two": ("reask", SPLIT, 'line 1: has no "questions"; write {"context": "...", "questions": '),
    "three questions": ("reask", {**ASKED, "questions": ["a", "b", "c"]}, '"questions" is ["a", "b", "c"], not a list'),
    "no answers": ("reask", {**ASKED, "answers": None}, 'line 1: "answers" is null, not a list of two strings'),
    "an empty answer": ("reask", {**ASKED, "answers": ["w1", ""]}, 'line 1: "answers" is empty'),
    "an answer that is none": ("reask", {**ASKED, "answers": ["w1", 3]}, 'line 1: "answers" is 3, not a string'),
}
WORDS_REFUSED = {
    "clairvoyant": (("--policies", "clairvoyant"), ("'clairvoyant' needs to know",)),
    "oracle": (("--policies", "oracle"), ("'oracle' needs to know the answers",)),
    "no parts": (("--policies", "lookaheadkv"), ("'lookaheadkv'", "heedful kv train lookahead")),
    "no drafter": (("--policies", "speckv"), ("'speckv'", "needs a smaller model")),
    "unknown protocol": (("--protocol", "blind"), ("--protocol 'blind'",)),
    "unknown policy": (("--policies", "lazyeviction"), ("did you mean 'lazy-eviction'?",)),
    "budget below the least": (
        ("--policies", "streaming-llm", "--budgets", "4"),
        ("'streaming-llm'", "at least 5 slots"),
    ),
    "share below the least": (
        ("--policies", "streaming-llm", "--budgets", "50%"),
        ("streaming-llm needs at least 5 slots; that is 50% of the prompt in line 1 (8 tokens)",),
    ),
    "no such folder": (("--model", "./nowhere"), ("--model ./nowhere: no such folder",)),
    "no such model": (("--model", "nobody/nothing"), ("--model nobody/nothing: is no shipped model (",)),
    "unknown dtype": (("--dtype", "float12"), ("--dtype 'float12': must be one of auto, float32, bfloat16, float16",)),
    "not a device": (("--device", "gpu"), ("--device 'gpu': not a device",)),
    "no CUDA": (("--device", "cuda"), ("--device cuda: this torch sees no CUDA device",)),
    "option for tasks": (("--tasks", "niah1"), ("--tasks is for embedded tasks",)),
}


def assert_refused(outcome, parts):
    status, out, err = outcome
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


@pytest.fixture
def unloadable(monkeypatch):
    """Loading weights fails the test."""
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("loaded the weights"))


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize(("lines", "parts"), FILES.values(), ids=FILES)
def test_a_bad_prompts_file_is_one_line_with_its_number(compare, lines, parts):
    assert_refused(compare(lines), parts)


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize(("protocol", "line", "part"), PROTOCOL_FILES.values(), ids=PROTOCOL_FILES)
def test_a_line_that_does_not_fit_the_protocol_is_named(compare, protocol, line, part):
    assert_refused(compare([line], "--protocol", protocol), (part,))


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize(("words", "parts"), WORDS_REFUSED.values(), ids=WORDS_REFUSED)
def test_bad_usage_is_one_line_before_weights_are_loaded(compare, monkeypatch, words, parts):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert_refused(compare([GOOD], *words), parts)


@pytest.mark.usefixtures("unloadable")
def test_libraries_say_nothing_beside_the_one_line(compare, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for library in ("huggingface_hub", "transformers"):
        monkeypatch.setattr(logging.getLogger(library), "level", logging.WARNING)
    compare([GOOD], "--model", "nobody/nothing")
    for library in ("huggingface_hub.utils._http", "transformers.modeling_utils"):
        assert not logging.getLogger(library).isEnabledFor(logging.ERROR)


def test_thresholds_that_were_not_calibrated_for_the_model_are_named(compare, folder):
    words = ("--budgets", "5", "--max-new-tokens", 2)
    _, _, err = compare([GOOD], "--policies", "h2o,raas,lazy-eviction:window=2", *words)
    assert err == (
        f"notice: alpha=0.001 of raas, lazy-eviction:window=2 was not chosen for {folder}; calibrate it with "
        "heedful.kv.replay.record and recurrence, and give it as raas:alpha=...\n"
    )
    _, _, err = compare([GOOD], "--policies", "raas:alpha=0.01,lazy-eviction:alpha=0.05,window=2,h2o", *words)
    assert err == ""


@pytest.mark.usefixtures("unloadable")
def test_files_that_are_not_there_or_not_text(compare, tmp_path):
    assert_refused(compare([GOOD], "--prompts", "q.jsonl"), ("--prompts q.jsonl: No such file or directory",))
    assert_refused(compare([GOOD], "--prompts", tmp_path), ("Is a directory",))
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    assert_refused(compare([GOOD], "--prompts", "latin.jsonl"), ("latin.jsonl, line 1: not UTF-8 text",))


@pytest.mark.usefixtures("unloadable")
def test_unsupported_families_are_named(compare, tiny, tmp_path):
    from transformers import BertConfig

    tiny("mistral", torch.float32, sliding_window=8).save_pretrained(tmp_path / "sliding")
    BertConfig().save_pretrained(tmp_path / "bert")
    for name in ("sliding", "bert"):
        tokenizer().save_pretrained(tmp_path / name)
    assert_refused(compare([GOOD], "--model", "./sliding"), ("'mistral'", "no full-attention layer"))
    assert_refused(compare([GOOD], "--model", "./bert"), ("'bert'",))


@pytest.mark.usefixtures("unloadable")
def test_a_tokenizer_that_cannot_encode_names_the_prompt(compare):
    assert_refused(
        compare([GOOD], "--model", "task-mini-1"), ("prompt in line 1: the tokenizer of task-mini-1 cannot encode it",)
    )


def test_damaged_weights_are_one_line(compare, folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 100 if file.suffix == ".safetensors" else None])
    status, out, err = compare([GOOD], "--model", broken, "--policies", "h2o", "--budgets", "8")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: --model {broken}: ") and err.count("\n") == 1


def test_memory_that_is_not_enough_is_one_line_and_status_1(compare, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(own, "run", exhausted)
    status, out, err = compare([GOOD], "--budgets", "8", "--policies", "h2o")
    assert (status, out) == (1, "")
    assert err == "error: the comparison stopped: CUDA out of memory. Tried to allocate 20.00 GiB.\n"


def test_a_model_whose_attention_is_not_finite_is_one_line_and_status_1(compare, fresh, tmp_path):
    damaged = fresh("llama", torch.float32)
    damaged.model.layers[1].self_attn.k_proj.weight.data.fill_(float("nan"))
    damaged.save_pretrained(tmp_path / "nan")
    tokenizer().save_pretrained(tmp_path / "nan")
    status, out, err = compare([GOOD], "--model", "./nan", "--policies", "h2o", "--budgets", "4")
    assert (status, out) == (1, "")
    assert err.startswith("error: the comparison stopped: scores of layer 1 contain NaN") and err.count("\n") == 1
