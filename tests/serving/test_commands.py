"""``heedful compare serving`` and ``heedful serving calibrate``: what they print and store, and how they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from heedful.lab.report.comparisons import read_comparisons
from heedful.serving import Conservative, Oracle, PastFuture, Simulator, Workload, distribution_3
from heedful.serving.commands import measuring
from heedful.serving.loads import saturation, under
from heedful.serving.service import Limits


@pytest.fixture
def heedful(heedful, tmp_path, monkeypatch):
    """The command, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path / "data"))
    return heedful


@pytest.fixture
def log(tmp_path):
    """A log of 200 requests, one a second."""
    rng = np.random.default_rng(0)
    rows = [f"{1000 * i},{rng.integers(50, 500)},{rng.integers(10, 200)}" for i in range(200)]
    path = tmp_path / "requests.csv"
    path.write_text("\n".join(("arrival_ms,input_tokens,output_tokens", *rows)) + "\n")
    return path


FEW = ("--schedulers", "past-future:rho=0.1,draws=2,conservative", "--window", "20", "--capacity", "20000")


def test_rows_say_what_single_runs_say():
    workload, simulator, limits = distribution_3(200, np.random.default_rng(0)), Simulator(50_000), Limits()
    schedulers = {"oracle": Oracle(), "past-future": PastFuture(), "conservative": Conservative()}
    compared = measuring.compare(simulator, schedulers, workload, [6.0, 12.0], limits, 20, 3, True, lambda *_: None)
    rows = {(row["scheduler"], row["load"]): row for row in measuring.rows(compared)}
    for spec, scheduler in schedulers.items():
        for load in (6, 12):
            alone = under(simulator, scheduler, workload, load, limits, 20, 3)
            row = rows[spec, load]
            assert row["goodput"] == alone.settled.goodput and row["met"] == alone.settled.met
            assert row["evictions_per_100"] == alone.run.evictions_per_100
    summary = {row["scheduler"]: row for row in measuring.summaries(compared)}
    assert summary["conservative"]["smallest_capacity"] >= summary["oracle"]["smallest_capacity"]
    assert compared.reference == 6.0
    assert summary["oracle"]["goodput"] == pytest.approx(
        (rows["oracle", 6]["goodput"] + rows["oracle", 12]["goodput"]) / 2
    )


def test_printed_stored_and_published(heedful, tmp_path, log):
    status, out, _ = heedful("compare", "serving", "--trace", log, *FEW, "--speed", "0.5,2", "--ttft", "2")
    assert status == 0
    assert out.startswith("requests: 200 requests, 20,000 slots\nscheduler")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["oracle", "past-future:rho=0.1,draws=2", "conservative"]
    assert "first token in 2 s" in out and "Caps: 256" in out
    page = Path(lines[-1].partition("report: ")[2])
    assert page.parent == tmp_path / "site" / "comparisons" and "Goodput against load" in page.read_text()
    stored, problems = read_comparisons(tmp_path / "runs")
    assert not problems and len(stored) == 1
    assert stored[0].command.startswith("heedful compare serving --trace")
    assert {"requests: 200 requests, 20,000 slots, by load"} < set(stored[0].tables)


def test_json_holds_every_number(heedful, log):
    status, out, _ = heedful("compare", "serving", "--trace", log, *FEW, "--clients", "3,6", "--json", "--no-search")
    found = json.loads(out)
    (table,) = found["tables"].values()
    assert status == 0 and len(table["rows"]) == 6
    assert {row["load"] for row in table["rows"]} == {3, 6}
    assert all(row["smallest_capacity"] is None for row in table["summary"])


def test_generated_requests_and_loads_about_saturation(heedful):
    words = ("--workload", "distribution-3", "--requests", "60", "--no-search", "--json", *FEW)
    status, out, _ = heedful("compare", "serving", *words)
    (table,) = json.loads(out)["tables"].values()
    assert status == 0 and len(table["rows"]) == 3 * len({row["load"] for row in table["rows"]})
    # 20,000 slots hold four to five such requests.
    assert {4, 5} & {row["load"] for row in table["rows"]}


def test_bad_rows_are_refused_with_their_line_or_counted(heedful, log):
    log.write_text(log.read_text() + "900000,,5\n")
    words = ("compare", "serving", "--trace", log, *FEW, "--speed", "1", "--no-search")
    status, _, err = heedful(*words)
    assert status == 2 and err.count("\n") == 1
    assert "line 202: input_tokens is missing, or leave it out with --skip-bad" in err
    status, out, _ = heedful(*words, "--skip-bad")
    assert status == 0 and "1 malformed rows left out, the first: line 202" in " ".join(out.split())


def test_all_figures_of_a_short_log_are_of_whole_runs(heedful, log):
    """Without cold start and end too little would be left under some loads; then nothing is left out under any."""
    words = ("--speed", "0.5,20", "--capacity", "3000", "--schedulers", "conservative", "--no-search", "--json")
    _, out, _ = heedful("compare", "serving", "--trace", log, *words)
    (table,) = json.loads(out)["tables"].values()
    assert {row["measured_requests"] for row in table["rows"]} == {200}
    assert all(row["goodput"] == row["goodput_whole"] and row["met"] == row["met_whole"] for row in table["rows"])
    assert "too few requests would be left" in table["note"]


@pytest.mark.parametrize(
    ("words", "ways"),
    [
        (("--capacity", "20000", "--speed", "1,2"), "a higher --speed or a --capacity from "),
        (("--capacity", "20000", "--clients", "1,2"), "more --clients or a --capacity from "),
        ((), "a --capacity from "),
    ],
)
def test_a_cache_that_never_fills_is_warned_of_in_print_and_on_the_page(heedful, tmp_path, log, words, ways):
    chosen = ("--schedulers", "past-future:rho=0.1,draws=2,conservative", "--window", "20", "--no-search")
    status, _, err = heedful("compare", "serving", "--trace", log, *chosen, *words)
    (stored,), _ = read_comparisons(tmp_path / "runs")
    warning = stored.facts["note 2"]
    assert status == 0 and err == f"{warning}\n"
    assert warning.startswith("warning: requests: the cache never fills, at most ")
    least, most = re.search(rf"; give {ways}([\d,]+) to ([\d,]+)$", warning).groups()
    assert least == "754" and f"at most {most} of" in warning
    # With what is advised there is something to decide.
    words = (*words, "--capacity", int(most.replace(",", "")) // 2)
    assert heedful("compare", "serving", "--trace", log, *chosen, *words)[::2] == (0, "")


def test_a_log_that_may_arrive_at_once_is_tried_about_its_own_speed(heedful, log, monkeypatch):
    monkeypatch.setattr("heedful.serving.loads.saturation", lambda *_: pytest.fail("searched for a speed"))
    words = ("compare", "serving", "--trace", log, "--schedulers", "conservative", "--window", "20", "--json")
    status, out, err = heedful(*words)
    (table,) = json.loads(out)["tables"].values()
    assert status == 0 and err.startswith("warning: requests: the cache never fills") and err.count("\n") == 1
    assert {row["load"] for row in table["rows"]} == {0.6, 0.8, 0.9, 1.0, 1.1, 1.3}
    assert "(about its own: even if all requests arrive at once, the oracle serves them within limits)" in table["note"]
    _, out, _ = heedful(*words, "--speed", "2", "--no-search")
    assert "about its own" not in out


def test_all_may_arrive_at_once_where_no_speed_is_too_fast():
    """By what a search for the speed finds: one at which the whole log arrives within microseconds, or a slow one."""
    rng = np.random.default_rng(0)
    requests = Workload(rng.integers(50, 500, 200), rng.integers(10, 200, 200), np.full(200, 256), np.arange(200.0))
    for capacity, first, all_at_once in ((40_000, 200, True), (3_000, 200, False), (3_000, 60, True)):
        work, simulator = requests.part(0, first), Simulator(capacity)
        assert measuring.takes_all_at_once(simulator, work, Limits()) == all_at_once
        assert (saturation(simulator, work, Limits()) > 1e5) == all_at_once
        assert not measuring.takes_all_at_once(simulator, work.closed(), Limits())
    assert not measuring.takes_all_at_once(Simulator(40_000), requests, Limits(ttft=1.0))


def test_a_cache_that_fills_is_not_warned_of(heedful, tmp_path, log):
    status, _, err = heedful("compare", "serving", "--trace", log, *FEW, "--capacity", "2000", "--speed", "1,4")
    (stored,), _ = read_comparisons(tmp_path / "runs")
    assert (status, err) == (0, "") and "note 2" not in stored.facts


def test_one_scheduler_alone_is_no_reason_for_a_warning(heedful, tmp_path, log):
    words = ("--schedulers", "oracle", "--clients", "50,100", "--no-search")
    assert heedful("compare", "serving", "--trace", log, *words, "--capacity", "20000")[::2] == (0, "")


def test_the_unit_that_arrival_times_are_taken_in_is_told(heedful, log):
    words = ("compare", "serving", "--trace", log, *FEW, "--speed", "1", "--no-search")
    assert "taken as seconds" not in heedful(*words)[1]
    log.write_text(log.read_text().replace("arrival_ms", "arrival", 1))
    note = "Numbers in 'arrival' are taken as seconds, as neither its name nor --unit says otherwise."
    assert note in " ".join(heedful(*words)[1].split())
    assert "taken as seconds" not in heedful(*words, "--unit", "ms")[1]


def test_the_page_says_what_columns_mean_and_how_to_do_it_again(heedful, tmp_path, log):
    heedful("compare", "serving", "--trace", log, *FEW, "--speed", "1", "--no-search")
    (stored,), _ = read_comparisons(tmp_path / "runs")
    assert stored.command.endswith("--no-search") and "Loads are times the speed" in stored.facts["note 1"]
    assert heedful(*stored.command.split()[1:], "--json")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--page", "30000", "--capacity", "20000"), "page=30000: must be at most the capacity, 20000"),
        (("--schedulers", "past-futur"), "unknown scheduler 'past-futur'; did you mean 'past-future'?"),
        (("--schedulers", "past-future:rho=2"), "rho=2.0: must lie in [0, 1)"),
        (("--clients", "0"), "--clients '0'"),
        (("--trace", "none.csv", "--cap", "0"), "--cap 0: must be at least 1"),
        (("--clients", "2.5"), "whole numbers of at least 1"),
        (("--schedulers", ""), "--schedulers is empty"),
        (("--clients", ""), "--clients is empty"),
        (("--speed", ""), "--speed is empty"),
        (("--workload", ""), "--workload is empty"),
        (("--trace", "none.csv", "--cap", ""), "--cap is empty"),
        (("--speed", "fast"), "--speed 'fast'"),
        (("--speed", "1", "--workload", "distribution-1"), "distribution-1 has no arrival times; give --clients"),
        (("--clients", "1", "--speed", "1"), "give one"),
        (("--cap", "100"), "--cap is for your own log; add --trace"),
        (("--workload", "poisson"), "--workload 'poisson': there are: distribution-1"),
        (("--trace", "none.csv"), "none.csv"),
        (("--ttft", "0"), "ttft=0"),
        (("--step-time", "none.json"), "--step-time none.json"),
        (("--workload", "distribution-1", "--capacity", "2000"), "no request of distribution-1 fits with its cap"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(heedful, words, message):
    status, out, err = heedful("compare", "serving", *words)
    assert status == 2 and not out
    assert message in err and err.count("\n") == 1


def test_columns_are_listed_where_one_is_missing(heedful, log):
    status, _, err = heedful("compare", "serving", "--trace", log, "--prompt", "words")
    assert status == 2 and "no column 'words'; it has: arrival_ms, input_tokens, output_tokens" in err


def test_constants_are_fitted_written_and_used(heedful, tmp_path, log):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(200):
        running, tokens = int(rng.integers(0, 20)), int(rng.choice([0, 256]))
        occupied, tokens = running * int(rng.integers(100, 900)), tokens or (0 if running else 64)
        seconds = (0.02 + 1e-3 * running + 1e-6 * occupied if running else 0.005) + 1e-4 * tokens
        rows.append(f"{running},{occupied},{tokens},{seconds!r}")
    steps = tmp_path / "steps.csv"
    steps.write_text("\n".join(("running,occupied,prefill_tokens,seconds", *rows)))
    status, out, _ = heedful("serving", "calibrate", steps, "--out", "time.json")
    assert status == 0 and "200 steps; the model explains 100.0 %" in out
    constants = json.loads((tmp_path / "time.json").read_text())
    assert constants["per_request"] == pytest.approx(1e-3) and constants["prefill"] == pytest.approx(5e-3)
    words = ("compare", "serving", "--trace", log, *FEW, "--speed", "1", "--no-search", "--json")
    slow = json.loads(heedful(*words, "--step-time", "time.json")[1])
    fast = json.loads(heedful(*words)[1])
    ttft = [next(iter(found["tables"].values()))["rows"][0]["ttft_p99_s"] for found in (slow, fast)]
    assert ttft[0] > 1.5 * ttft[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("running,occupied,seconds\n1,1,1\n", "no column 'prefill_tokens'; it has: running, occupied, seconds"),
        ("running,occupied,prefill_tokens,seconds\n1,x,1,1\n", "line 2: occupied is 'x', not a finite number"),
        (
            "running,occupied,prefill_tokens,seconds\n1,1,1,1\n1,1,1,one\n",
            "line 3: seconds is 'one', not a finite number",
        ),
        (
            "running,occupied,prefill_tokens,seconds\n1,1,1,1\n1,1,1,nan\n",
            "line 3: seconds is 'nan', not a finite number",
        ),
        ("running,occupied,prefill_tokens,seconds\n1,1,1,1\n", "1 steps: at least 10 are needed"),
    ],
)
def test_steps_that_are_none_are_refused(heedful, tmp_path, text, message):
    (tmp_path / "steps.csv").write_text(text)
    status, _, err = heedful("serving", "calibrate", "steps.csv")
    assert status == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["[]", "{", '{"speed": 1}', '{"step": -1}', '{"step": "fast"}'])
def test_damaged_constants_are_refused(heedful, tmp_path, text):
    (tmp_path / "time.json").write_text(text)
    status, _, err = heedful("compare", "serving", "--step-time", "time.json")
    assert status == 2 and "--step-time time.json" in err and err.count("\n") == 1
