"""Every scored token follows from its needs and the line in progress; the generators say what they do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.models import tasks
from heedful.models.tasks import Item, ledger
from heedful.models.tasks import vocabulary as vocab

LEAST = {"early": 128, "marked": 128, "vt": 128}
FORMS = [(task, {}) for task in tasks.names()]
FORMS += [(task, {"process": p}) for task in ("ledger", "ledger-spoken") for p in ledger.PROCESSES]
FORMS += [("verify", {"process": p}) for p in ledger.PROCESSES if p != "oneshot"]
FORMS += [("ledger", {"restate": 0.5})]
RETRIEVAL = ("niah1", "niah2", "mk1", "mk2", "mk3", "mv", "mq", "vt", "twohop", "copy", "marked")
FORMS += [(task, {"protocol": "reask"}) for task in RETRIEVAL]
IDS = [f"{task}{options or ''}" for task, options in FORMS]


def draw(task: str, seed: int, length: int, **options: object) -> Item:
    return tasks.sample(task, np.random.default_rng(seed), 1, length, **options)[0]


def ledger_token(tokens: list[int], t: int, needs: tuple[int, ...]) -> int:
    """A ledger's token from the line so far and one needed position, whose left neighbour says whose."""
    last, before = tokens[t - 1], tokens[t - 2]
    if vocab.is_name(last) and not vocab.is_operator(before):
        return tokens[needs[0]]  # the operand's value, said aloud
    operator, operand = (before, tokens[t - 3]) if vocab.is_name(last) else (last, before)
    if vocab.is_value(operand):
        return vocab.apply(operator, operand)
    found = tokens[needs[0]]
    return vocab.apply(operator, found) if tokens[needs[0] - 1] == operand else found


def tour_token(tokens: list[int], t: int, needs: tuple[int, ...]) -> int:
    """A tour's token from the last few tokens and the needed positions."""
    last, before = tokens[t - 1], tokens[t - 2]
    if last == vocab.UP:
        if needs:
            raise AssertionError("the node that is left is known")
        return tokens[t - 3] if before == vocab.SEMICOLON else tokens[t - 4]
    if vocab.is_value(last):
        if vocab.is_value(before):
            return vocab.UP
        return vocab.add(last, tokens[needs[0]]) if needs else last
    if last == vocab.SEMICOLON:
        return vocab.FIN if tokens[needs[0]] == before else vocab.UP
    return tokens[needs[0]]


def plain_token(item: Item, tokens: list[int], t: int, needs: tuple[int, ...]) -> int:
    """What a plain interpreter says token t is, given the needed positions and the line in progress."""
    if item.task.startswith(("ledger", "verify")):
        return ledger_token(tokens, t, needs)
    if item.task == "tour":
        if tokens[t - 1] == vocab.UP or vocab.is_value(tokens[t - 1]) or tokens[t - 1] == vocab.SEMICOLON:
            return tour_token(tokens, t, needs)
        return tokens[needs[0]]
    if item.task == "drill":
        return vocab.apply(tokens[t - 1], tokens[t - 2])
    if item.task == "early":
        value, question = needs
        offset = 1 if tokens[t - 1] == vocab.ANSWER else 2
        assert tokens[value - offset] == tokens[question]
        assert tokens[question - 1] == vocab.QUESTION
        return tokens[value]
    found = {tokens[p] for p in needs}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(("task", "options"), FORMS, ids=IDS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(128, 400))
def test_every_scored_token_follows_from_its_needs_alone(task: str, options: dict, seed: int, length: int) -> None:
    item = draw(task, seed, length, **options)
    tokens = item.tokens.tolist()
    assert set(item.needs) == set(np.flatnonzero(item.scored).tolist())
    for t, needs in item.needs.items():
        # All combinations would be many where there are many copies: the first and the last do.
        for chosen in product(*({need[0], need[-1]} for need in needs)):
            assert all(0 <= p < t for p in chosen)
            assert plain_token(item, tokens, t, chosen) == tokens[t]
        for need in needs:
            if task in ("repeat", "recall"):
                assert {tokens[p] for p in need} == {tokens[t]}


@pytest.mark.parametrize(("task", "options"), FORMS, ids=IDS)
def test_items_have_the_stated_form(task: str, options: dict) -> None:
    for length in (LEAST.get(task, 64) if not options else 128, 160, 512, 1024):
        item = draw(task, length, length, **options)
        size = len(item.tokens)
        assert 0.5 * length <= size <= length or options.get("process") == "oneshot"
        assert item.tokens.dtype == np.int64 and item.scored.dtype == bool and item.last_use.dtype == np.int32
        assert item.scored.shape == item.last_use.shape == item.tokens.shape
        assert item.tokens.min() >= 1 and item.tokens.max() < vocab.SIZE
        assert 0 < item.prompt_length <= np.flatnonzero(item.scored)[0]
        assert (item.last_use[~item.scored] == -1).all()
        assert (item.last_use < np.arange(size)).all()
        assert [span[1] for span in item.spans] == [0, *(span[2] for span in item.spans[:-1])]
        assert item.spans[-1][2] == size


@pytest.mark.parametrize("task", tasks.names())
def test_a_seed_fixes_the_items(task: str) -> None:
    first, second, other = (tasks.sample(task, np.random.default_rng(s), 3, 150) for s in (1, 1, 2))
    for a, b in zip(first, second):
        assert np.array_equal(a.tokens, b.tokens) and a.needs == b.needs and a.spans == b.spans
    assert any(not np.array_equal(a.tokens, b.tokens) for a, b in zip(first, other))


def sentences(item: Item) -> list[list[int]]:
    """The ``; ... ;`` of an item's context, without the semicolons."""
    end = next(start for name, start, _ in item.spans if name != "context")
    found, inside = [], None
    for token in item.tokens[:end].tolist():
        if token == vocab.SEMICOLON:
            if inside is not None:
                found.append(inside)
            inside = [] if inside is None else None
        elif inside is not None:
            inside.append(token)
    return found


def solve(item: Item, question: list[int]) -> list[int]:
    """The answer to a retrieval question, read off the context."""
    lines = sentences(item)
    if item.task == "vt":
        answer = [question[0]]
        while vocab.is_name(answer[-1]):
            answer.append(next(line[2] for line in lines if line[0] == answer[-1]))
        return answer[1:]
    if item.task == "twohop":
        middle = next(line[1] for line in lines if line[0] == question[0])
        return [middle, next(line[1] for line in lines if line[0] == middle)]
    if item.task == "mv":
        return [line[1] for line in lines if line[0] == question[0]]
    if item.task == "mq":
        return [token for key in question for line in lines if line[0] == key for token in line]
    if item.task in ("copy", "marked"):
        return next(line[2:] for line in lines if line[:2] == [vocab.MARK, question[0]])
    return next(line[len(question) :] for line in lines if line[: len(question)] == question)


@pytest.mark.parametrize("task", RETRIEVAL)
@pytest.mark.parametrize("protocol", ["aware", "reask"])
def test_retrieval_answers_are_what_the_context_says(task: str, protocol: str) -> None:
    for seed in range(20):
        item = draw(task, seed, 150, protocol=protocol)
        asked = [item.tokens[a + 1 : b - 1].tolist() for name, a, b in item.spans if name == "question"]
        answers = [item.tokens[a:b].tolist() for name, a, b in item.spans if name == "answer"]
        answers[-1].pop()  # <eos>
        assert len(asked) == (2 if protocol == "reask" else 1)
        assert [solve(item, question) for question in asked] == answers
        assert item.tokens[item.prompt_length - 1] == vocab.ANSWER
        if protocol == "reask" and task not in ("mq",):
            assert asked[0] != asked[1]


@pytest.mark.parametrize("task", RETRIEVAL)
def test_agnostic_has_the_tokens_of_aware(task: str) -> None:
    aware, agnostic = (draw(task, 3, 200, protocol=p) for p in ("aware", "agnostic"))
    assert np.array_equal(aware.tokens, agnostic.tokens) and aware.spans == agnostic.spans


def test_frequent_words_are_the_frequent_ones() -> None:
    for length in (64, 128, 512):
        item = draw("fwe", length, length)
        counts = np.bincount(item.tokens[1 : item.prompt_length - 2], minlength=vocab.SIZE)
        answer = item.tokens[item.scored]
        assert counts[answer].tolist() == sorted(counts.tolist(), reverse=True)[:3]
        assert len(set(counts[answer].tolist())) == 3
        assert np.sort(counts)[-4] < counts[answer[-1]]


def test_common_words_occur_three_times_as_often() -> None:
    item = draw("cwe", 5, 256)
    counts = np.bincount(item.tokens[1 : item.prompt_length - 2], minlength=vocab.SIZE)
    answer = item.tokens[item.scored]
    rest = counts[counts > 0]
    assert set(counts[answer]) == {3 * rest.min()} and (rest == rest.min()).sum() == len(rest) - 3


def test_early_ends_in_filler_that_says_nothing() -> None:
    for seed in range(20):
        item = draw("early", seed, 256)
        tail = item.tokens[item.prompt_length - 41 : item.prompt_length - 1]
        assert (tail >= vocab.FIRST_FILLER).all()


def test_a_ledger_writes_every_value_once_and_reuses_operators_last() -> None:
    item = draw("ledger", 0, 600, process="uniform")
    exceptions = [len(needs[0]) > 1 for needs in item.needs.values()]
    assert np.mean(exceptions) < 0.1
    assert draw("ledger", 0, 600).scored.sum() > 150


def test_oneshot_uses_each_name_exactly_once() -> None:
    for length in (80, 300, 440, 600):
        item = draw("ledger", length, length, process="oneshot")
        used = [needs[0][0] for needs in item.needs.values()]
        assert len(set(used)) == len(used)


def test_verify_rederives_old_lines() -> None:
    item = draw("verify", 1, 300)
    ((start, end),) = [(a, b) for name, a, b in item.spans if name == "check"]
    assert item.tokens[start] == vocab.FIN
    lines = item.tokens[start + 1 : end].reshape(-1, 3)
    old = {tuple(item.tokens[t - 2 : t]) for t in range(item.prompt_length + 2, start)}
    old |= {(item.tokens[t - 3], item.tokens[t - 2]) for t in range(item.prompt_length + 3, start)}
    assert all((name, operator) in old for name, operator, _ in lines)


def test_recent_operands_are_defined_lately() -> None:
    item = draw("ledger", 2, 600, process="recent")
    early = np.flatnonzero(item.scored)[:60]
    assert np.median([t - item.needs[t][0][0] for t in early]) < 30


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("leger", 100, {}), "unknown task 'leger'; known: ledger"),
        (("ledger", 20, {}), "length 20"),
        (("ledger", 100, {"process": "zip"}), "unknown operand process 'zip'"),
        (("ledger", 100, {"premises": 0}), "premises"),
        (("ledger", 100, {"restate": 1.5}), "restate"),
        (("verify", 100, {"process": "oneshot"}), "oneshot"),
        (("verify", 100, {"share": 1.0}), "share"),
        (("tour", 20, {}), "too short"),
        (("niah1", 10, {}), "too short"),
        (("niah1", 100, {"protocol": "blind"}), "unknown protocol"),
        (("niah1", 100, {"questions": 0}), "questions"),
        (("cwe", 100, {"protocol": "reask"}), "no protocol 'reask'"),
        (("cwe", 100, {"others": 0}), "others"),
        (("fwe", 10, {}), "too short"),
        (("early", 60, {}), "too short"),
        (("early", 200, {"tail": (5, 2)}), "tail"),
        (("marked", 200, {"marks": 0}), "marks"),
    ],
)
def test_bad_input_is_named(call: tuple[str, int, dict], message: str) -> None:
    task, length, options = call
    with pytest.raises(ValueError, match=message):
        draw(task, 0, length, **options)


def test_unknown_options_and_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="recall has no option 'protocol'"):
        draw("recall", 0, 64, protocol="aware")
    with pytest.raises(ValueError, match="count"):
        tasks.sample("recall", np.random.default_rng(0), -1, 64)


def test_decode_names_every_token() -> None:
    assert tasks.decode([1, 12, 108, 124, 132, 227]) == "<bos> K0 V0 O0 F0 F95"
    assert len(set(vocab.WORDS)) == vocab.SIZE == 228
    with pytest.raises(ValueError, match="228"):
        tasks.decode([228])
    assert sorted(vocab.PERMUTATIONS[3].tolist()) == list(range(16))
