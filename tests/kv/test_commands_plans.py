"""``heedful compare kv`` on the embedded tasks: which tasks are played, and who takes part."""

import numpy as np
import pytest

from heedful.kv.base import Share
from heedful.kv.commands import embedded, options
from heedful.lab.errors import LabError

CARD = {
    "accuracy": {
        "niah1": {"64": 1.0, "128": 0.99, "512": 0.99},
        "mk1": {"64": 0.97, "128": 0.96},
        "ledger": {"64": 0.97, "128": 0.96, "256": 0.9},
        "ledger/stack": {"64": 0.9},
        "verify": {"64": 0.94},
    }
}


def test_default_tasks_are_those_that_the_card_vouches_for(monkeypatch):
    monkeypatch.setattr(embedded, "card", lambda model: CARD)
    works = embedded.plan("task-mini-1", None, None, pytest.fail)
    assert works == (embedded.Work("niah1", 128, "prompt"), embedded.Work("ledger", 128, "decode"))
    works = embedded.plan("task-mini-1", None, 512, pytest.fail)
    assert works == (embedded.Work("niah1", 512, "prompt"),)
    with pytest.raises(LabError, match="gets no task right at length 600"):
        embedded.plan("task-mini-1", None, 600, pytest.fail)


def test_a_task_below_the_bar_is_played_with_a_warning(monkeypatch):
    monkeypatch.setattr(embedded, "card", lambda model: CARD)
    heard = []
    works = embedded.plan("task-mini-1", ["ledger:stack", "ledger:zipf", "mk1"], 64, heard.append)
    assert [(work.task, work.group) for work in works] == [
        ("mk1", "prompt"), ("ledger:stack", "decode"), ("ledger:zipf", "decode"),
    ]  # fmt: skip
    assert heard == [
        "warning: by its card, task-mini-1 gets less than 98 % of 'mk1' right at length 64, even with the full cache",
        "warning: by its card, task-mini-1 gets less than 95 % of 'ledger:stack' right at length 64, even with the "
        "full cache",
    ]


def test_policies_with_commas_inside():
    assert options.read_specs("h2o:recent=4,window=8,tova , lazy-eviction:alpha=0.1") == (
        "h2o:recent=4,window=8", "tova", "lazy-eviction:alpha=0.1",
    )  # fmt: skip


def test_contenders_begin_with_the_full_cache_and_have_no_doubles():
    found = options.contenders(["h2o", "full", "h2o"], [Share(0.5), 8], 100)
    assert [(c.spec, c.budget, getattr(c.policy, "budget", None)) for c in found] == [
        ("full", "", None), ("h2o", "50%", 50), ("h2o", "8", 8),
    ]  # fmt: skip


def test_shares_are_checked_against_the_shortest_text():
    (_, contender) = options.contenders(["lazy-eviction"], [Share(0.1)], 170, "the prompt", resolved=False)
    assert contender.policy.budget == Share(0.1)
    with pytest.raises(LabError, match=r"budget=16.* at least 17 slots; that is 10% of the prompt \(169 tokens\)"):
        options.contenders(["lazy-eviction"], [Share(0.1)], 169, "the prompt", resolved=False)


def test_default_policies_that_cannot_work_are_left_out_as_long_as_others_can():
    heard = []
    work = embedded.Work("recall", 64, "decode")
    todo = embedded.jobs("task-mini-1", [work, work], None, [Share(0.2)], 4, 0, heard.append)
    specs = {job.contender.spec for job in todo}
    assert "h2o" in specs and "lazy-eviction:alpha=0.02" not in specs
    assert heard == [
        "left out: policy 'lazy-eviction:alpha=0.02': budget=12: lazy-eviction needs at least 17 slots; "
        "that is 20% of 64 tokens"
    ]
    with pytest.raises(LabError, match="is no slot at all"):
        embedded.jobs("task-mini-1", [work], None, [Share(0.01)], 4, 0, heard.append)


def test_policies_that_never_shrink_a_prompt_are_named_where_that_is_asked_of_them():
    heard = []
    work = embedded.Work("niah1", 64, "prompt")
    todo = embedded.jobs("task-mini-1", [work], ["raas", "lazy-eviction", "h2o"], [8], 4, 0, heard.append)
    assert [job.contender.spec for job in todo] == ["full", "h2o"]
    assert heard == ["left out of prompt eviction: raas, lazy-eviction: never shrink a prompt"]


def test_policies_that_decide_once_are_named_where_their_decision_would_not_show():
    heard = []
    works = [embedded.Work("niah1", 64, "prompt"), embedded.Work("recall", 64, "decode")]
    specs = ["snapkv", "cake", "cake:decode=capacity", "h2o"]
    todo = embedded.jobs("task-mini-1", works, specs, [20], 4, 0, heard.append)
    played = [(job.work.task, job.contender.spec) for job in todo]
    assert played == [
        ("niah1", "full"), ("niah1", "snapkv"), ("niah1", "cake"), ("niah1", "cake:decode=capacity"), ("niah1", "h2o"),
        ("recall", "full"), ("recall", "cake:decode=capacity"), ("recall", "h2o"),
    ]  # fmt: skip
    assert heard == [
        "left out of decode eviction: snapkv, cake: decide once, when the prompt has been read, which is short there"
    ]
    todo = embedded.jobs("task-mini-1", works, ["snapkv"], [20], 4, 0, heard.append)
    assert {job.work.task for job in todo} == {"niah1"}
    with pytest.raises(LabError, match="no policy is left on these tasks"):
        embedded.jobs("task-mini-1", works[1:], ["snapkv"], [20], 4, 0, heard.append)


def test_a_short_window_is_given_to_those_who_were_given_none():
    found = options.contenders(
        ["snapkv", "snapkv:observation_window=24", "laq", "h2o"], [25], 256, window=embedded.WINDOW
    )
    windows = [getattr(contender.policy, "observation_window", None) for contender in found]
    assert windows == [None, 16, 24, 8, None]


def test_agnostic_items_are_the_aware_ones():
    aware, agnostic = (
        embedded.drawn(embedded.Work("mk1", 64, "prompt", protocol), 0, 2) for protocol in ("aware", "agnostic")
    )
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(aware, agnostic, strict=True))


def test_tasks_without_a_question_have_no_protocol(monkeypatch):
    monkeypatch.setattr(embedded, "card", lambda model: CARD | {"accuracy": CARD["accuracy"] | {"early": {"64": 1}}})
    works = embedded.plan("task-mini-1", None, 64, pytest.fail, "agnostic")
    assert [work.task for work in works] == ["niah1"]
    for task, protocol in (("ledger", "agnostic"), ("early", "agnostic"), ("cwe", "reask")):
        with pytest.raises(LabError, match=f"'?{task}'? has no protocol '{protocol}'"):
            embedded.plan("task-mini-1", [task], 128, lambda _: None, protocol)


def test_policies_that_lack_something_are_left_out_or_refused():
    heard = []
    work = embedded.Work("niah1", 64, "prompt")
    todo = embedded.jobs("task-mini-1", [work], None, [20], 4, 0, heard.append)
    assert "lookaheadkv" not in {job.contender.spec for job in todo}
    (told,) = heard
    assert told.startswith("left out: policy 'lookaheadkv': no lookahead.safetensors beside the model")
    for spec, missing in (
        ("lookaheadkv", "no lookahead.safetensors"),
        ("lookaheadkv:parts=nowhere.safetensors", "nowhere.safetensors: no such file"),
        ("attention-gate", "no gate.safetensors"),
        ("speckv", "needs a smaller model"),
        ("speckv:drafter=byte-1", "vocabulary"),
    ):
        with pytest.raises(LabError, match=missing):
            embedded.jobs("task-mini-1", [work], [spec], [20], 4, 0, pytest.fail)
