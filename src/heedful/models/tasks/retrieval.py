"""Family B: a long context with a few sentences that matter, then questions about them.

All tasks share one shape, ``<bos> context <q> ... <a> answer* (<q> ... <a> answer*)... <eos>``: filler from a
Zipf-bigram process holds sentences ``; ... ;`` at uniform depths.

| task | sentences | question, answer |
|---|---|---|
| ``niah1`` | one ``; K v v' ;`` | ``<q> K <a> v* v'*`` |
| ``niah2`` | the same, and an eighth of the filler words are values | the same |
| ``mk1`` | four ``; K v v' ;`` | the same |
| ``mk2`` | as many as fit (at most 96) in nine tenths of the context | the same |
| ``mk3`` | eight ``; K K' v v' ;``, keys sharing first names | ``<q> K K' <a> v* v'*`` |
| ``mv`` | two to four ``; K v ;`` of one key, decoys of another | ``<q> K <a> v* v* ...`` in order |
| ``mq`` | eight ``; K v v' ;`` | ``<q> K1 K2 .. <a> K1 v* v'* K2 v* v'* ..``, two to four keys |
| ``vt`` | three chains ``; K_a ^ v ;`` ``; K_b ^ K_a ;`` of two to four links | ``<q> K_b <a> K_a* v*`` |
| ``twohop`` | pairs ``; K K' ;`` and ``; K' v ;`` | ``<q> K <a> K'* v*`` |
| ``copy`` | three spans ``; <m> K w1 .. wn ;`` of filler words | ``<q> K <a> w1* .. wn*`` |
| ``marked`` | marked ``; <m> K v v' ;`` among unmarked, some of the same key | ``<q> K <a> v* v'*`` |

Option ``protocol``: ``"aware"`` and ``"agnostic"`` give the same tokens, with the spans ``context``,
``question`` and ``answer`` (an experiment that evicts without knowing the question does so where ``context``
ends); ``"reask"`` adds a second question and answer about something else. Option ``questions`` sets the
number of questions directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import vocabulary as vocab
from .filler import scatter, words
from .item import Draft, Item

PROTOCOLS = ("aware", "agnostic", "reask")


@dataclass(frozen=True)
class _Word:
    """An answer token and what it is made of: (sentence, offset) places, each one needed; given if none."""

    token: int
    places: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Question:
    tokens: list[int]
    answer: list[_Word]


def count_questions(protocol: str, questions: int | None) -> int:
    """How many questions an item has.

    Raises:
        ValueError: an unknown protocol, or fewer than one question.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if questions is None:
        return 2 if protocol == "reask" else 1
    if questions < 1:
        raise ValueError(f"questions must be at least 1, got {questions}")
    return questions


def _compose(
    task: str,
    rng: np.random.Generator,
    length: int,
    sentences: list[list[int]],
    questions: list[_Question],
    value_share: float = 0.0,
) -> Item:
    """Write the context, then the questions with their answers."""
    asked = sum(len(q.tokens) + len(q.answer) + 2 for q in questions)
    draft = Draft("context")
    draft.say(vocab.BOS)
    room = length - asked - 2
    if sum(map(len, sentences)) > room:
        raise ValueError(f"length {length} is too short for {task} with {len(questions)} questions")
    starts = scatter(draft, rng, sentences, room, value_share)
    prompt_length = 0
    for question in questions:
        draft.part("question")
        draft.say(vocab.QUESTION, *question.tokens, vocab.ANSWER)
        prompt_length = prompt_length or len(draft)
        draft.part("answer")
        for word in question.answer:
            if word.places:
                draft.answer(word.token, *((starts[which] + offset,) for which, offset in word.places))
            else:
                draft.say(word.token)
    draft.say(vocab.EOS)
    return draft.item(task, prompt_length)


def _names(rng: np.random.Generator, count: int) -> list[int]:
    return (rng.permutation(vocab.NAMES)[:count] + vocab.FIRST_NAME).tolist()


def _values(rng: np.random.Generator, count: int) -> list[int]:
    return rng.integers(vocab.FIRST_VALUE, vocab.FIRST_OPERATOR, size=count).tolist()


def _sentence(*tokens: int) -> list[int]:
    return [vocab.SEMICOLON, *tokens, vocab.SEMICOLON]


def _asked(rng: np.random.Generator, among: int, count: int) -> list[int]:
    """Which of ``among`` things ``count`` questions are about: all different while they last."""
    return [int(i) for _ in range(-(-count // among)) for i in rng.permutation(among)][:count]


def _keys(task: str, rng: np.random.Generator, length: int, needles: int, count: int, value_share: float = 0.0) -> Item:
    """``needles`` sentences ``; K v v' ;`` and ``count`` questions about different ones."""
    names, first, second = _names(rng, needles), _values(rng, needles), _values(rng, needles)
    sentences = [_sentence(*line) for line in zip(names, first, second)]
    questions = [
        _Question([names[i]], [_Word(first[i], ((i, 2),)), _Word(second[i], ((i, 3),))])
        for i in _asked(rng, needles, count)
    ]
    return _compose(task, rng, length, sentences, questions, value_share)


def niah1(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """One needle in filler (one per question, if there are several)."""
    count = count_questions(protocol, questions)
    return _keys("niah1", rng, length, count, count)


def niah2(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """One needle in filler that contains values itself."""
    count = count_questions(protocol, questions)
    return _keys("niah2", rng, length, count, count, value_share=1 / 8)


def mk1(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """Four needles of different keys."""
    return _keys("mk1", rng, length, 4, count_questions(protocol, questions))


def mk2(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """As many needles as fit in nine tenths of the context, at most 96."""
    count = count_questions(protocol, questions)
    room = length - 2 - 5 * count
    return _keys("mk2", rng, length, max(1, min(vocab.NAMES, int(0.9 * room) // 5)), count)


def mk3(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """Eight needles with two-token keys; three first names are shared, so the second token decides."""
    count = count_questions(protocol, questions)
    needles = 8
    names = _names(rng, 3 + needles)
    keys = [(names[i % 3], names[3 + i]) for i in range(needles)]
    first, second = _values(rng, needles), _values(rng, needles)
    sentences = [_sentence(*key, v, w) for key, v, w in zip(keys, first, second)]
    questions_ = [
        _Question(list(keys[i]), [_Word(first[i], ((i, 3),)), _Word(second[i], ((i, 4),))])
        for i in _asked(rng, needles, count)
    ]
    return _compose("mk3", rng, length, sentences, questions_)


def mv(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """A key with two to four values, to be listed in order; another key is decoy (or asked next)."""
    count = count_questions(protocol, questions)
    groups = max(2, count)
    names = _names(rng, groups)
    sentences: list[list[int]] = []
    members: list[list[int]] = []
    for name in names:
        values = rng.permutation(vocab.VALUES)[: int(rng.integers(2, 5))] + vocab.FIRST_VALUE
        members.append(list(range(len(sentences), len(sentences) + len(values))))
        sentences.extend(_sentence(name, int(v)) for v in values)
    # The answer is in order of appearance: place the context first, then read the order off.
    draft = Draft("context")
    draft.say(vocab.BOS)
    answers = sum(len(members[i]) + 3 for i in range(count))
    room = length - answers - 2
    if sum(map(len, sentences)) > room:
        raise ValueError(f"length {length} is too short for mv with {count} questions")
    starts = scatter(draft, rng, sentences, room)
    prompt_length = 0
    for i in range(count):
        draft.part("question")
        draft.say(vocab.QUESTION, names[i], vocab.ANSWER)
        prompt_length = prompt_length or len(draft)
        draft.part("answer")
        for start in sorted(starts[m] for m in members[i]):
            draft.answer(draft.tokens[start + 2], (start + 2,))
    draft.say(vocab.EOS)
    return draft.item("mv", prompt_length)


def mq(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """Eight needles; each question asks two to four keys at once. The answer's keys are given, not scored."""
    count = count_questions(protocol, questions)
    needles = 8
    names, first, second = _names(rng, needles), _values(rng, needles), _values(rng, needles)
    asked = []
    for _ in range(count):
        chosen = rng.permutation(needles)[: int(rng.integers(2, 5))].tolist()
        answer = [
            word for i in chosen for word in (_Word(names[i]), _Word(first[i], ((i, 2),)), _Word(second[i], ((i, 3),)))
        ]
        asked.append(_Question([names[i] for i in chosen], answer))
    sentences = [_sentence(*line) for line in zip(names, first, second)]
    return _compose("mq", rng, length, sentences, asked)


def vt(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """Three chains of names, two to four links each; follow one to its value."""
    count = count_questions(protocol, questions)
    chains = max(3, count)
    links = rng.integers(2, 5, size=chains).tolist()
    names = _names(rng, sum(links))
    sentences: list[list[int]] = []
    asked = []
    for link, value in zip(links, _values(rng, chains)):
        own, names = names[:link], names[link:]
        base = len(sentences)
        sentences.append(_sentence(own[0], vocab.LINK, value))
        sentences.extend(_sentence(own[i], vocab.LINK, own[i - 1]) for i in range(1, link))
        hops = [_Word(own[i - 1], ((base + i, 3),)) for i in range(link - 1, 0, -1)]
        asked.append(_Question([own[-1]], [*hops, _Word(value, ((base, 3),))]))
    return _compose("vt", rng, length, sentences, [asked[i] for i in _asked(rng, chains, count)])


def twohop(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """Four pairs of pairs: the answer to the first hop is the key of the second."""
    count = count_questions(protocol, questions)
    pairs = max(4, count)
    names, values = _names(rng, 2 * pairs), _values(rng, pairs)
    sentences = [_sentence(names[i], names[pairs + i]) for i in range(pairs)]
    sentences += [_sentence(names[pairs + i], values[i]) for i in range(pairs)]
    asked = [
        _Question([names[i]], [_Word(names[pairs + i], ((i, 2),)), _Word(values[i], ((pairs + i, 2),))])
        for i in _asked(rng, pairs, count)
    ]
    return _compose("twohop", rng, length, sentences, asked)


def copy(rng: np.random.Generator, length: int, protocol: str = "aware", questions: int | None = None) -> Item:
    """Three marked spans of 6 to 12 filler words (4 to 6 under 128 tokens); quote one."""
    count = count_questions(protocol, questions)
    spans = max(3, count)
    low, high = (6, 13) if length >= 128 else (4, 7)
    names = _names(rng, spans)
    quotes = [words(rng, int(n)) for n in rng.integers(low, high, size=spans)]
    sentences = [_sentence(vocab.MARK, name, *quote) for name, quote in zip(names, quotes)]
    asked = [
        _Question([names[i]], [_Word(word, ((i, 3 + at),)) for at, word in enumerate(quotes[i])])
        for i in _asked(rng, spans, count)
    ]
    return _compose("copy", rng, length, sentences, asked)


def marked(
    rng: np.random.Generator,
    length: int,
    protocol: str = "aware",
    questions: int | None = None,
    marks: int = 4,
    decoys: int = 8,
) -> Item:
    """``marks`` marked needles among ``decoys`` unmarked ones, half of which carry a marked key."""
    count = count_questions(protocol, questions)
    if marks < 1 or decoys < 0:
        raise ValueError(f"marks must be at least 1 and decoys at least 0, got {marks} and {decoys}")
    same = min(marks, decoys // 2)
    names = _names(rng, marks + decoys - same)
    others = names[:same] + names[marks:]
    first, second = _values(rng, marks + decoys), _values(rng, marks + decoys)
    sentences = [_sentence(vocab.MARK, names[i], first[i], second[i]) for i in range(marks)]
    sentences += [_sentence(names_, first[marks + i], second[marks + i]) for i, names_ in enumerate(others)]
    asked = [
        _Question([names[i]], [_Word(first[i], ((i, 3),)), _Word(second[i], ((i, 4),))])
        for i in _asked(rng, marks, count)
    ]
    return _compose("marked", rng, length, sentences, asked)


def early(rng: np.random.Generator, length: int, needles: int | None = None, tail: tuple[int, int] = (40, 80)) -> Item:
    """A question hidden among needles, then ``tail`` (least, most) tokens of filler, then ``<a> v* v'*``.

    ``needles`` sentences ``; K v v' ;`` (default: one per 24 tokens, at most 24) and one ``; <q> K ;`` stand
    at random depths; the end of the prompt says nothing about the question.
    """
    least, most = tail
    if not 0 <= least <= most:
        raise ValueError(f"tail must be 0 <= least <= most, got {tail}")
    count = max(2, min(24, length // 24)) if needles is None else needles
    if count < 1:
        raise ValueError(f"needles must be at least 1, got {needles}")
    names, first, second = _names(rng, count), _values(rng, count), _values(rng, count)
    sentences = [_sentence(*line) for line in zip(names, first, second)]
    sentences.append(_sentence(vocab.QUESTION, names[0]))
    gap = int(rng.integers(least, most + 1))
    room = length - gap - 5
    if sum(map(len, sentences)) > room:
        raise ValueError(f"length {length} is too short for early with {count} needles and {gap} tokens of tail")
    draft = Draft("context")
    draft.say(vocab.BOS)
    starts = scatter(draft, rng, sentences, room)
    draft.part("filler")
    draft.say_all(words(rng, gap))
    draft.part("question")
    draft.say(vocab.ANSWER)
    draft.part("answer")
    prompt_length = len(draft)
    question = (starts[-1] + 2,)
    draft.answer(first[0], (starts[0] + 2,), question)
    draft.answer(second[0], (starts[0] + 3,), question)
    draft.say(vocab.EOS)
    return draft.item("early", prompt_length)
