"""``heedful compare kv`` on the embedded tasks: what is measured, printed and stored, and how it refuses."""

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from heedful import models
from heedful.cli import main
from heedful.kv.base import Share
from heedful.kv.commands import embedded, outcomes, page, playing
from heedful.kv.evaluate import play
from heedful.kv.experiments import _work
from heedful.kv.policies import make
from heedful.lab.errors import WorkError
from heedful.lab.report.comparisons import read_comparisons

ONCE = {"snapkv", "pyramidkv", "adakv", "ada-criticalkv", "defensivekv", "layer-defensivekv", "cake"}
"""Default policies that decide once, when the prompt has been read."""
MINI = ("--model", "task-mini-1", "--workers", "1", "--length", "64")


@pytest.fixture
def compare(capsys, tmp_path, monkeypatch):
    """``compare(*words)``: exit status, standard output and standard error, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main(["compare", "kv", *map(str, words)])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def measured():
    """Every policy on one task of each group: the jobs with their rows."""
    works = embedded.plan("task-mini-1", ["mk1", "ledger-spoken"], 64, pytest.fail)
    todo = embedded.jobs("task-mini-1", works, None, [Share(0.3), Share(0.5), Share(1.0)], 6, 3, lambda _: None)
    found = playing.run(todo, 1, lambda *_: None)
    return list(zip(todo, outcomes.rows(todo, found), strict=True))


def rows_of(measured, **where):
    return [row for _, row in measured if all(row[key] == value for key, value in where.items())]


def test_each_group_has_the_policies_whose_eviction_shows_there(measured):
    policies = {task: {row["policy"] for row in rows_of(measured, task=task)} for task in ("mk1", "ledger-spoken")}
    plain = {"full", "clairvoyant", "h2o", "tova", "streaming-llm", "random"}
    assert policies["mk1"] == plain | ONCE
    lasting = {"local", "h2o+window", "lazy-eviction:alpha=0.02", "raas:alpha=0.02"}
    assert policies["ledger-spoken"] == plain | lasting


def test_full_agrees_with_play_and_differs_by_nothing_from_itself(measured):
    for task, group in (("mk1", "prompt"), ("ledger-spoken", "decode")):
        (row,) = rows_of(measured, task=task, policy="full")
        drawn = _work.items(task, 3, 6, 64)
        played = play(models.load("task-mini-1")[0], make("full"), [_work.episode(item) for item in drawn])
        shares = [p.correct.sum() / item.scored.sum() for p, item in zip(played, drawn, strict=True)]
        expected = np.mean(shares) if group == "decode" else np.mean([share == 1 for share in shares])
        assert row["accuracy"] == pytest.approx(expected)
        assert row["budget_slots"] is None and row["difference"] == 0
        # The last token of the longest item is predicted, never fed.
        assert row["slots"] == row["peak_slots"] == max(len(item.tokens) for item in drawn) - 1


def test_a_budget_of_the_whole_length_costs_nothing(measured):
    for row in rows_of(measured, budget="100%"):
        assert (row["budget_slots"], row["difference"]) == (64, 0), row


def test_slots_are_the_budget_at_the_end_and_what_the_protocol_says_at_the_peak(measured):
    for job, row in measured:
        if row["budget"] not in ("30%", "50%"):
            continue
        budget = {"30%": 19, "50%": 32}[row["budget"]]
        assert row["budget_slots"] == budget
        more = 16 if row["policy"] in ("h2o+window", "lazy-eviction:alpha=0.02") else 1
        more = 4 if row["policy"] in ONCE else more  # the answer's tokens are added
        assert budget <= row["slots"] < budget + more, row
        window = more if job.work.group == "decode" else 1
        peak = budget + window if job.work.group == "decode" else 61
        assert row["peak_slots"] == pytest.approx(peak, abs=1e-9), row
        assert row["bytes"] <= row["peak_bytes"]


def test_bytes_of_the_full_cache_are_those_of_its_entries(measured):
    (row,) = rows_of(measured, task="mk1", policy="full")
    layers, kv_heads, width = 3, 2, 16
    # Keys and values in float32 and an int32 position; room for the 64 tokens that the items have.
    assert row["bytes"] == 64 * layers * kv_heads * (2 * 4 * width + 4)


def test_who_knows_the_needs_beats_who_knows_nothing(measured):
    (knows,) = rows_of(measured, task="mk1", policy="clairvoyant", budget="30%")
    (guesses,) = rows_of(measured, task="mk1", policy="random", budget="30%")
    assert knows["accuracy"] >= guesses["accuracy"] + 0.3
    assert knows["difference"] >= -0.2


def test_intervals_hold_their_means_and_differences_are_paired(measured):
    for _, row in measured:
        (full,) = rows_of(measured, task=row["task"], policy="full")
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["difference"] == pytest.approx(row["accuracy"] - full["accuracy"])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_speed_is_that_of_all_prompt_tasks_together():
    works = embedded.plan("task-mini-1", ["mk1", "niah1", "recall"], 64, pytest.fail)
    todo = embedded.jobs("task-mini-1", works, ["h2o"], [24], 2, 0, pytest.fail)
    found = playing.run(todo, 1, lambda *_: None)
    speeds = {(r["task"], r["policy"]): r["tokens_per_s"] for r in outcomes.rows(todo, found)}
    assert speeds["mk1", "h2o"] == speeds["niah1", "h2o"] != speeds["mk1", "full"]
    mine = [out for job, out in zip(todo, found) if job.work.group == "prompt" and job.contender.spec == "h2o"]
    assert [out.steps for out in mine] == [4, 4]  # two tokens to feed, of two items
    assert speeds["mk1", "h2o"] == pytest.approx(8 / sum(out.seconds for out in mine))


def test_results_do_not_depend_on_the_number_of_workers(measured):
    todo = [job for job, _ in measured if job.contender.budget in ("", "30%")][::3]
    alone, together = (playing.run(todo, workers, lambda *_: None) for workers in (1, 2))
    for one, two in zip(alone, together, strict=True):
        assert np.array_equal(one.right, two.right)
        assert (one.slots, one.peak_slots, one.nbytes, one.peak_nbytes) == (
            two.slots, two.peak_slots, two.nbytes, two.peak_nbytes,
        )  # fmt: skip


def test_printed_stored_and_published(compare, tmp_path):
    words = (*MINI, "--tasks", "niah1", "--policies", "h2o,local", "--budgets", "50%,40", "--items", "4")
    status, out, err = compare(*words)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "Prompt eviction"
    assert lines[1].split("  ")[0] == "task" and "accuracy %" in lines[1] and "tokens/s" in lines[1]
    cells = [line.split() for line in lines[2:7]]
    assert [(row[1], row[2]) for row in cells] == [
        ("full", "–"), ("h2o", "50%"), ("h2o", "40"), ("local", "50%"), ("local", "40"),
    ]  # fmt: skip
    assert cells[1][2:5] == ["50%", "=", "32"]
    assert "% of items whose whole answer is right" in " ".join(lines)
    published = Path(lines[-1].partition("report: ")[2])
    assert published.parent == tmp_path / "site" / "comparisons"
    assert "Policies on the tasks of task-mini-1" in published.read_text()

    (stored,), problems = read_comparisons(tmp_path / "runs")
    assert problems == []
    assert stored.command == "heedful compare kv " + " ".join(words)
    assert stored.facts["model"] == "task-mini-1" and "duration" in stored.facts
    frame = stored.tables["Prompt eviction"]
    assert frame["policy"].to_list() == ["full", "h2o", "h2o", "local", "local"]
    assert frame["budget_slots"].to_list() == [None, 32, 40, 32, 40]
    assert frame["tokens_per_s"].min() > 0
    assert [title for title, *_ in stored.figures] == [
        "Prompt eviction: accuracy against slots",
        "Prompt eviction: accuracy against memory",
        "What is kept of one item of niah1",
    ]
    _, _, spec, behind = stored.figures[0]
    assert spec["facet"]["field"] == "task" and len(spec["spec"]["layer"]) == 4
    assert behind["slots"].to_list() == frame["slots"].to_list()


def test_json_has_every_table(compare):
    status, out, _ = compare(
        *MINI, "--tasks", "recall", "--policies", "raas", "--budgets", "0.8", "--items", "4", "--json"
    )
    assert status == 0
    printed = json.loads(out)
    full, raas = printed["tables"]["Decode eviction"]["rows"]
    assert (full["policy"], raas["policy"], raas["budget"], raas["budget_slots"]) == ("full", "raas", "80%", 51)
    assert raas["items"] == 4 and Path(printed["report"]).is_file()


REFUSED = {
    "unknown policy": (("--policies", "h2oo"), ("unknown policy 'h2oo'", "did you mean 'h2o'?")),
    "unknown form": (("--policies", "h2o+lazy"), ("no form '+lazy'",)),
    "unknown parameter": (("--policies", "tova:alpha=1"), ("no parameter 'alpha'",)),
    "parameter out of range": (("--policies", "raas:alpha=-1"), ("policy 'raas:alpha=-1'", "alpha=-1")),
    "parameter of another kind": (("--policies", "raas:alpha=abc"), ("policy 'raas:alpha=abc'",)),
    "budget in a policy": (("--policies", "h2o:budget=8"), ("give the budget as an option",)),
    "no policy": (("--policies", ","), ("--policies is empty",)),
    "empty policies": (("--policies", ""), ("--policies is empty",)),
    "empty tasks": (("--tasks", ""), ("--tasks is empty",)),
    "unknown protocol": (("--protocol", "blind"), ("--protocol 'blind': must be one of aware, agnostic, reask",)),
    "no such protocol": (
        ("--protocol", "agnostic", "--tasks", "ledger"),
        ("task 'ledger' has no protocol 'agnostic'",),
    ),
    "nothing to play": (("--policies", "cake", "--tasks", "ledger-spoken"), ("no policy is left on these tasks",)),
    "missing parts": (("--policies", "attention-gate"), ("policy 'attention-gate'", "no gate.safetensors")),
    "unknown task": (("--tasks", "ledgr"), ("unknown task 'ledgr'", "did you mean 'ledger'?")),
    "unknown operand process": (("--tasks", "ledger:zapf"), ("task 'ledger:zapf'", "unknown operand process")),
    "task without processes": (("--tasks", "niah1:zipf"), ("task 'niah1:zipf'",)),
    "length too short": (("--tasks", "mk3", "--length", "40"), ("length 40 is too short",)),
    "budget 0": (("--budgets", "0"), ("--budgets '0'", "above 0")),
    "negative budget": (("--budgets", "-5"), ("--budgets '-5'",)),
    "budget not a number": (("--budgets", "nan"), ("--budgets 'nan'",)),
    "budget in words": (("--budgets", "20%,many"), ("--budgets 'many'",)),
    "budget above everything": (("--budgets", "120%"), ("--budgets '120%'",)),
    "fractional slots": (("--budgets", "12.5"), ("--budgets '12.5'",)),
    "share of no slot": (("--budgets", "1%"), ("1% of 64 tokens is no slot at all",)),
    "budget below the least": (
        ("--budgets", "12", "--tasks", "recall", "--policies", "h2o,lazy-eviction"),
        ("policy 'lazy-eviction'", "budget=12", "needs at least 17 slots"),
    ),
    "share below the least": (
        ("--budgets", "5%", "--tasks", "niah1", "--policies", "streaming-llm"),
        ("policy 'streaming-llm'", "needs at least 5 slots; that is 5% of 64 tokens"),
    ),
    "model without prompts": (("--model", "byte-1"), ("without --prompts", "task-mini-1")),
    "option for prompts": (("--dtype", "float16"), ("--dtype is for your own prompts",)),
    "one item": (("--items", "1"), ("--items", "see 'heedful compare kv --help'")),
}


@pytest.mark.parametrize(("words", "parts"), REFUSED.values(), ids=REFUSED)
def test_bad_usage_is_one_line_before_any_work(compare, monkeypatch, words, parts):
    monkeypatch.setattr(playing, "run", lambda *_: pytest.fail("worked"))
    status, out, err = compare(*MINI, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


def test_an_unwritable_folder_is_one_line_before_any_work(compare, monkeypatch, tmp_path):
    monkeypatch.setattr(playing, "run", lambda *_: pytest.fail("worked"))
    (tmp_path / "file").write_text("")
    for words in (("--out", "file"), ("--out", "file/below"), ("--site", "file/below/site")):
        status, out, err = compare(*MINI, *words)
        assert (status, out) == (2, "")
        assert err.startswith("error: cannot write to ") and "file" in err
        assert err.count("\n") == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    status, _, err = compare(*MINI, "--site", "mine")
    assert status == 2 and "is not a report" in err


def test_a_dead_worker_is_one_line_and_status_1(compare, monkeypatch):
    def die(*_):
        raise BrokenProcessPool("A process in the process pool was terminated abruptly")

    monkeypatch.setattr(playing, "run", die)
    status, out, err = compare(*MINI, "--budgets", "50%")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == (
        "error: the comparison stopped: A process in the process pool was terminated abruptly"
    )


def test_prompts_that_are_read_once_give_what_each_policy_gets_by_itself(measured):
    """What play_all shares must not show: the same answers, slots and bytes."""
    jobs = [job for job, _ in measured if job.work.task == "mk1" and job.contender.budget in ("", "30%")]
    together = playing.measure(jobs)
    for job, one in zip(jobs, together, strict=True):
        (alone,) = playing.measure([job])
        drawn = embedded.drawn(job.work, job.seed, job.items)
        episodes = [_work.episode(item) for item in drawn]
        played = play(models.load(job.model)[0], playing.informed(job.policy, drawn, episodes), episodes, batch=6)
        right = [float(p.correct.sum() == item.scored.sum()) for p, item in zip(played, drawn, strict=True)]
        assert one.right.tolist() == alone.right.tolist() == right
        assert one.slots == alone.slots == np.mean(played[0].usage.slots)
        assert one.peak_slots == np.mean(played[0].usage.peak_slots)


@pytest.mark.parametrize("protocol", ["aware", "agnostic", "reask"])
def test_a_protocol_decides_when_the_cache_shrinks_and_which_answer_counts(protocol):
    (work,) = embedded.plan("task-mini-1", ["mk1"], 64, lambda _: None, protocol)
    todo = embedded.jobs("task-mini-1", [work], ["h2o", "snapkv", "oracle"], [24], 4, 5, pytest.fail)
    rows = {row["policy"]: row for row in outcomes.rows(todo, playing.run(todo, 1, lambda *_: None))}
    assert {row["task"] for row in rows.values()} == {"mk1" if protocol == "aware" else f"mk1@{protocol}"}
    (item, *_) = embedded.drawn(work, 5, 4)
    context, question = item.spans[0][2], item.spans[1][2]
    assert question == item.prompt_length
    first = context if protocol == "agnostic" else question
    after = len(item.tokens) - 1 - first  # what is appended and stays, by policies that decide once
    assert rows["full"]["slots"] == len(item.tokens) - 1
    assert rows["snapkv"]["slots"] == rows["oracle"]["slots"] == 24 + after
    assert rows["h2o"]["slots"] == 24
    assert rows["snapkv"]["peak_slots"] == max(first, 24 + after)
    spans = [name for name, *_ in item.spans]
    assert spans.count("question") == (2 if protocol == "reask" else 1)
    assert rows["full"]["accuracy"] == 1.0


def test_a_shipped_drafter_is_found_by_name(measured):
    work = embedded.Work("niah1", 64, "prompt")
    todo = embedded.jobs("task-mini-1", [work], ["speckv:drafter=task-mini-1,draft=2"], [20], 4, 0, pytest.fail)
    assert todo[1].policy.drafter == str(models.path("task-mini-1"))
    full, drafted = playing.run(todo, 1, lambda *_: None)
    assert drafted.slots == 20 + full.slots - 61


def test_gates_are_shown_with_the_slots_that_they_measure(tmp_path):
    from heedful.kv.gates import Gates
    from heedful.kv.parts import store

    model = models.load("task-mini-1")[0]
    store(tmp_path / "gate.safetensors", Gates.new(model, bias=-30.0).parts(model))
    spec = f"attention-gate:parts={tmp_path / 'gate.safetensors'}"
    work = embedded.Work("niah1", 64, "prompt")
    todo = embedded.jobs("task-mini-1", [work], [spec], [20, 30], 4, 0, pytest.fail)
    full, gated = outcomes.rows(todo, playing.run(todo, 1, lambda *_: None))
    assert (gated["budget"], gated["budget_slots"]) == ("", None)
    assert gated["slots"] == 1 + full["slots"] - 61  # the first token, and the answer's


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "alpha=0.02 of lazy-eviction, raas was not chosen for task-mini-1"),
        (("--policies", "raas,h2o"), "alpha=0.001 of raas was not chosen for task-mini-1"),
        (("--policies", "raas:alpha=0.05,h2o"), ""),
        (("--model", "task-1"), ""),
        (("--model", "task-2"), ""),
        (("--model", "task-1", "--policies", "raas"), "alpha=0.001 of raas was not chosen for task-1"),
    ],
)
def test_thresholds_that_belong_to_no_or_to_another_model_are_named(compare, monkeypatch, words, named):
    def stop(*_):
        raise WorkError("planned")

    monkeypatch.setattr(playing, "run", stop)
    _, _, err = compare(*MINI, "--tasks", "recall", "--budgets", "32", *words)
    *told, last = err.splitlines()
    assert last == "error: planned"
    assert [line.partition(";")[0] for line in told] == ([f"notice: {named}"] if named else [])


def test_wilson_interval_of_binary_values():
    # n = 20, all right: the lower end is 1 / (1 + z^2 / n) with z = 1.95996.
    row = page.with_interval("a", [1.0] * 20, binary=True)
    assert (row["a"], row["a_high"]) == (1, pytest.approx(1))
    assert row["a_low"] == pytest.approx(1 / (1 + 1.959964**2 / 20), abs=1e-6)


def test_intervals_of_little():
    assert page.with_interval("a", [0.5]) == {"a": 0.5, "a_low": None, "a_high": None}
    assert page.with_interval("a", [0.5, float("nan")])["a"] is None
    assert page.spread({"a": None}, "a") == "–"
    assert page.spread({"a": -0.00001, "a_low": None, "a_high": None}, "a", sign="+") == "+0.0"
