"""What every policy promises; a new policy is tested by being listed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from heedful.kv import (
    LAQ,
    AttentionGate,
    Budgeted,
    Clairvoyant,
    LazyEviction,
    LookaheadKV,
    Oracle,
    Policy,
    RaaS,
    Share,
    Slots,
    SpecKV,
)
from heedful.kv.attention import Seen
from heedful.kv.base import Sized
from heedful.kv.foresight import Foresight
from heedful.kv.gates import Gates
from heedful.kv.lookahead_training import LookaheadSettings, initial
from heedful.kv.parts import Parts, likeness, store
from heedful.kv.policies import classes, make
from heedful.kv.prefill import Prefill
from heedful.kv.shared_prompt import SharedPrompt

NAMES = [name for name, cls in classes().items() if cls.__module__.startswith("heedful.")]
BUDGETED = [name for name in NAMES if issubclass(classes()[name], Budgeted)]
SIZED = [name for name in NAMES if issubclass(classes()[name], Sized)]
PREFILL = [name for name in NAMES if issubclass(classes()[name], Prefill)]
ONCE = [name for name in NAMES if issubclass(classes()[name], Prefill | Foresight)]
BUDGET = 12
TOGETHER = {"defensivekv": 2, "layer-defensivekv": 6}
"""Heads whose shares of a prompt are rounded down together; elsewhere each head's is."""

pytestmark = pytest.mark.filterwarnings("ignore:budget=.*the prompt alone is longer")

MADE: dict[str, Any] = {}
"""What policies need that belongs to the tests' model: trained parts, a smaller model."""


@pytest.fixture(scope="module", autouse=True)
def made(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings, generator = LookaheadSettings(tokens=5, rank=2, alpha=2), torch.Generator().manual_seed(3)
    tensors = initial(tiny(), [torch.arange(64)], settings)
    for name, x in tensors.items():
        x += torch.randn(x.shape, generator=generator, dtype=x.dtype) * (1 if name == "embeddings" else 0.3)
    path = tmp_path_factory.mktemp("parts") / "lookahead.safetensors"
    store(path, Parts("lookahead", tensors, dataclasses.asdict(settings), likeness(tiny())))
    MADE["lookahead"] = str(path)
    for name, bias in (("gate", 0.0), ("open-gate", 30.0)):
        gates = Gates.new(tiny(), heads=2, size=4, bias=bias)
        for weight_name, weight in gates.named_parameters():
            if weight_name.endswith(("query", "key")):
                weight.data *= 2
        MADE[name] = str(path.with_name(f"{name}.safetensors"))
        store(Path(MADE[name]), gates.parts(tiny()))
    MADE["drafter"] = tiny(num_hidden_layers=1, seed=5)


def policy_of(name: str, budget: Any = BUDGET, batch: int = 1, **options: Any) -> Policy:
    """The policy in a form that decides often and, at these sizes, differently at every step."""
    cls = classes()[name]
    if issubclass(cls, Prefill):
        options = {"observation_window": 4, **options}
    if cls is AttentionGate:  # it has no budget: one that is never reached is that of a gate that is always open
        never_reached = isinstance(budget, int) and budget > BUDGET
        options = {"parts": MADE.get("open-gate" if never_reached else "gate", ""), **options}
    if not issubclass(cls, Sized):
        return cls(**options)
    if cls is LazyEviction:
        options = {"window": 3, "alpha": 0.05, **options}
    if cls is RaaS:
        options = {"alpha": 0.05, **options}
    if cls is Clairvoyant:
        options = {"needs": [{5: [30], 2: [25, 40], 11: [28]}] * batch, **options}
    if issubclass(cls, Foresight):
        options = {"kernel": 3, "keep_last": 4, **options}
    if cls is LAQ:
        options = {"observation_window": 4, "draft": 4, **options}
    if cls is LookaheadKV:
        options = {"parts": MADE.get("lookahead", ""), **options}
    if cls is SpecKV:
        options = {"drafter": MADE.get("drafter", ""), **options}
    if cls is Oracle:
        options = {"answers": [[7, 3, 21, 9]] * batch, **options}
    return cls(budget=budget, **options)


def positions(cache: Any) -> list[list[list[list[int]]]]:
    """Sorted positions per layer, batch item and head."""
    return [
        [[sorted(p for p in head.tolist() if p >= 0) for head in item] for item in cache.slots(i).position]
        for i in cache.evicting
    ]


class Spy:
    """Follows a policy through a generation: what was stored before and after each decision."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
        self.steps: list[tuple[int, list[list[set[int]]], list[list[set[int]]], int]] = []
        cls = type(policy)
        for hook in ("prompted", "decoded"):
            inner = getattr(cls, hook)

            def follow(mine: Policy, slots: Slots, seen: Seen, inner: Any = inner) -> None:
                before = self.sets(slots)
                inner(mine, slots, seen)
                self.steps.append((slots.layer, before, self.sets(slots), slots.steps))

            monkeypatch.setattr(cls, hook, follow)

    @staticmethod
    def sets(slots: Slots) -> list[list[set[int]]]:
        return [[{p for p in head.tolist() if p >= 0} for head in item] for item in slots.position]


def test_every_published_policy_is_listed() -> None:
    expected = {
        "clairvoyant",
        "full",
        "h2o",
        "lazy-eviction",
        "local",
        "raas",
        "random",
        "streaming-llm",
        "tova",
    }
    assert expected <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_that_is_never_reached_gives_the_plain_cache_exactly(
    name: str, tiny: Any, prompt: Any, generate: Any, reference: Any
) -> None:
    model, ids = tiny(), prompt(20, batch=2)
    expected = reference(model, ids)
    cache = policy_of(name, budget=20 + 12, batch=2).cache_for(model)
    got = generate(model, ids, cache)
    assert torch.equal(got.sequences, expected.sequences)
    for mine, plain in zip(got.logits, expected.logits):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-11)
    assert cache.usage().evicted == (0.0, 0.0, 0.0)
    assert cache.usage().slots == (31.0, 31.0, 31.0)


@pytest.mark.parametrize("name", SIZED)
def test_evicting_changes_the_logits_that_the_full_cache_gives(
    name: str, tiny: Any, prompt: Any, generate: Any, reference: Any
) -> None:
    model, ids = tiny(), prompt(20)
    got, expected = generate(model, ids, policy_of(name).cache_for(model), 16), reference(model, ids, 16)
    assert max(float((a - b).abs().max()) for a, b in zip(got.logits, expected.logits)) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_the_same_bit_for_bit(name: str, tiny: Any, prompt: Any, generate: Any) -> None:
    model, ids, policy = tiny(), prompt(20, batch=2), policy_of(name, batch=2)
    runs = []
    for _ in range(2):
        cache = policy.cache_for(model)
        runs.append((generate(model, ids, cache), positions(cache)))
    (a, kept_a), (b, kept_b) = runs
    assert torch.equal(a.sequences, b.sequences)
    assert all(torch.equal(x, y) for x, y in zip(a.logits, b.logits))
    assert kept_a == kept_b


@pytest.mark.parametrize("budget", [BUDGET, Share(0.5)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_padded_prompts_equals_single_runs(
    name: str, budget: Any, tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    model = tiny()
    lengths = (20, 13, 17, 11)
    prompts = [prompt(n, seed=i) for i, n in enumerate(lengths)]
    ids, mask = padded(prompts)
    cache = policy_of(name, budget, batch=4).cache_for(model)
    together = generate(model, ids, cache, 14, mask)
    kept = positions(cache)
    for i, p in enumerate(prompts):
        single_cache = policy_of(name, budget).cache_for(model)
        single = generate(model, p, single_cache, 14)
        assert torch.equal(together.sequences[i, -14:], single.sequences[0, -14:])
        assert [layer[i] for layer in kept] == [layer[0] for layer in positions(single_cache)]
        for a, b in zip(together.logits, single.logits):
            torch.testing.assert_close(a[i], b[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_permuting_the_batch_permutes_the_result(name: str, tiny: Any, prompt: Any, generate: Any) -> None:
    model, ids, order = tiny(), prompt(18, batch=3), [2, 0, 1]
    outs = []
    for batch in (ids, ids[order]):
        cache = policy_of(name, batch=3).cache_for(model)
        outs.append((generate(model, batch, cache).sequences, positions(cache)))
    assert torch.equal(outs[0][0][order], outs[1][0])
    assert [[layer[i] for i in order] for layer in outs[0][1]] == outs[1][1]


@pytest.mark.parametrize("name", NAMES)
def test_interleaved_generations_with_one_policy_do_not_disturb_each_other(name: str, tiny: Any, prompt: Any) -> None:
    model, policy = tiny(), policy_of(name)
    streams = [prompt(20, seed=1), prompt(15, seed=2)]

    def steps(ids: Tensor, cache: Any) -> Any:
        seen = 0
        for _ in range(12):
            out = model(ids, past_key_values=cache, position_ids=torch.arange(seen, seen + ids.shape[1])[None])
            seen += ids.shape[1]
            ids = out.logits[:, -1:].argmax(-1)
            yield out.logits[:, -1]

    with torch.no_grad():
        alone = [list(steps(ids, policy.cache_for(model))) for ids in streams]
        together = list(zip(*(steps(ids, policy.cache_for(model)) for ids in streams)))
    for i, logits in enumerate(alone):
        assert all(torch.equal(a, pair[i]) for a, pair in zip(logits, together))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", ONCE)
def test_a_prompt_is_cut_once_to_the_budget_and_its_window_stays(
    name: str, share: bool, tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    """All of a batch item's entries together; how they spread over layers and heads is the method's own affair."""
    model = tiny()
    lengths, new = (20, 14, 17), 5
    ids, mask = padded([prompt(n, seed=i) for i, n in enumerate(lengths)])
    cache = policy_of(name, Share(0.5) if share else BUDGET, batch=3).cache_for(model)
    generate(model, ids, cache, new + 1, mask)
    for item, length in enumerate(lengths):
        heads = [layer[item][head] for layer in positions(cache) for head in range(2)]
        together = TOGETHER.get(name, 1)
        kept = 6 // together * (length * together // 2) if share else 6 * BUDGET
        assert sum(len(head) for head in heads) == kept + 6 * new
        for head in heads:
            assert set(range(length - 4, length + new)) <= set(head)


@pytest.mark.parametrize("name", ONCE)
def test_sharing_a_prompt_leaves_the_cache_of_an_own_pass(name: str, tiny: Any, prompt: Any, padded: Any) -> None:
    model = tiny()
    ids, mask = padded([prompt(n, seed=i) for i, n in enumerate((20, 14, 17))])
    policy = policy_of(name, batch=3)
    own = policy.cache_for(model)
    with torch.inference_mode():
        logits = model(
            ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), past_key_values=own
        ).logits
    prompt_once = SharedPrompt(model, ids, mask, window=8)
    shared = prompt_once.cache_for(policy)
    torch.testing.assert_close(prompt_once.logits, logits[:, -1], rtol=0, atol=1e-10)
    assert positions(shared) == positions(own)
    for layer in own.evicting:
        torch.testing.assert_close(shared.slots(layer).keys, own.slots(layer).keys, rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", [1, 5])
@pytest.mark.parametrize("name", BUDGETED)
def test_size_and_nesting_hold_at_every_decision(
    name: str, window: int, tiny: Any, prompt: Any, generate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, length = tiny(), 20
    policy = policy_of(name, window=window)
    spy = Spy(monkeypatch, policy)
    budget = length + 1 if name == "raas" else BUDGET
    generate(model, prompt(length), policy.cache_for(model), 16)
    now: dict[int, list[list[set[int]]]] = {}
    decided = 0
    for layer, before, after, step in spy.steps:
        newest = length + step - 1
        for head, (had, has) in enumerate(zip(before[0], after[0])):
            assert has <= had
            assert newest in had
            if step:
                assert had == now[layer][0][head] | {newest}
                started = policy.evicts_prompt or step > window
                assert len(had) <= budget + window or not started
            if (step or policy.evicts_prompt) and step % window == 0:
                assert len(has) == min(budget, len(had))
                decided += 1
        now[layer] = after
    assert decided > 0


@pytest.mark.parametrize("name", BUDGETED)
def test_a_window_longer_than_the_generation_evicts_nothing_while_decoding(
    name: str, tiny: Any, prompt: Any, generate: Any
) -> None:
    model = tiny()
    cache = policy_of(name, budget=31, window=30).cache_for(model)
    generate(model, prompt(28), cache, 14)
    assert cache.usage().evicted == (0.0,) * 3


@pytest.mark.parametrize("name", SIZED)
def test_the_smallest_budget_works_and_a_smaller_one_is_refused(
    name: str, tiny: Any, prompt: Any, generate: Any
) -> None:
    model = tiny()
    least = policy_of(name).least  # type: ignore[attr-defined]
    cache = policy_of(name, budget=least).cache_for(model)
    got = generate(model, prompt(10), cache, 9)
    assert all(torch.isfinite(logits).all() for logits in got.logits)
    after = 8 if name in ONCE else 2
    assert sum(cache.usage().slots) / 3 <= (11 if name == "raas" else least + after)
    with pytest.raises(ValueError, match=rf"budget={least - 1}\b"):
        policy_of(name, budget=least - 1)


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"budget": 0}, "budget=0"),
        ({"budget": -3}, "budget=-3"),
        ({"budget": 2.5}, "budget=2.5"),
        ({"budget": True}, "budget=True"),
        ({"window": 0}, "window=0"),
        ({"window": 1.5}, "window=1.5"),
    ],
)
def test_bad_input_is_named_in_one_line(name: str, wrong: dict[str, Any], message: str) -> None:
    if name in ONCE:
        own = "observation_window" if name in PREFILL else "kernel"
        wrong = {key.replace("window", own): value for key, value in wrong.items()}
        message = message.replace("window", own)
    with pytest.raises(ValueError) as error:
        policy_of(name, **wrong)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in SIZED if policy_of(name).least > 1])  # type: ignore[attr-defined]
def test_a_share_of_a_short_prompt_that_is_too_small_is_named(name: str, tiny: Any, prompt: Any, generate: Any) -> None:
    model = tiny()
    with pytest.raises(ValueError, match=r"budget=10% of this prompt is 1 slots"):
        generate(model, prompt(12), policy_of(name, Share(0.1)).cache_for(model), 4)


@pytest.mark.parametrize("value", [float("nan"), -0.1, float("inf")])
def test_a_share_must_be_a_number_that_is_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match="share="):
        Share(value)


def test_a_share_above_one_warns_and_evicts_nothing(tiny: Any, prompt: Any, generate: Any) -> None:
    with pytest.warns(UserWarning, match="exceeds 1"):
        share = Share(1.5)
    model = tiny()
    cache = make("h2o", share).cache_for(model)
    generate(model, prompt(10), cache, 6)
    assert cache.usage().evicted == (0.0,) * 3


def test_a_budget_of_no_share_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="budget"):
        make("local", Share(0.0))


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_is_immutable(name: str) -> None:
    policy = policy_of(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.budget = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", BUDGETED)
def test_a_policy_is_made_from_its_text(name: str) -> None:
    made = make(f"{name}:budget=40,window=8") if name != "clairvoyant" else make(name, 40, window=8)
    assert (made.budget, made.window) == (40, 8)  # type: ignore[attr-defined]
    assert made.name == name


@pytest.mark.parametrize(
    "spec, message",
    [
        ("h20", "unknown policy 'h20'; did you mean 'h2o'"),
        ("h2o+lag", r"no form '\+lag'"),
        ("full+window", r"no form '\+window'"),
        ("h2o:recent", "'recent' is not key=value"),
        ("h2o:speed=3", "no parameter 'speed'"),
    ],
)
def test_a_wrong_spec_is_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(spec)
