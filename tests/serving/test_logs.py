"""Logs are read as they are, and what is wrong with one is said with its line."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from heedful.serving.logs import Columns, read_log

HEADER = "arrival_ms,input_tokens,output_tokens"


@pytest.fixture
def write(tmp_path):
    def make(text, name="log.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return make


def test_csv_with_known_columns(write):
    log = read_log(write(f"{HEADER}\n500,10,3\n700,20,9\n\n2500,30,5\n"))
    workload = log.workload
    assert workload.prompt.tolist() == [10, 20, 30] and workload.output.tolist() == [3, 9, 5]
    assert workload.arrival.tolist() == pytest.approx([0.0, 0.2, 2.0])
    assert workload.cap.tolist() == [16, 16, 16] and log.cap.startswith("16, ")
    assert (log.skipped, log.shortened) == (0, 0)


def test_the_columns_of_azure(write):
    rows = ("2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109")
    workload = read_log(write("\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *rows)))).workload
    assert workload.prompt.tolist() == [374, 396] and workload.output.tolist() == [44, 109]
    assert workload.arrival.tolist() == pytest.approx([0.0, 4.314579], abs=1e-6)


def test_jsonl_and_parquet_say_the_same(tmp_path, write):
    rows = [{"arrival_us": 1000 * i, "input_tokens": i + 1, "output_tokens": 2 * i + 1, "ids": [1]} for i in range(5)]
    lines = write("\n".join(json.dumps(row) for row in rows), "log.jsonl")
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    one, other = read_log(lines).workload, read_log(tmp_path / "log.parquet").workload
    for name in ("prompt", "output", "cap", "arrival"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.arrival[-1] == pytest.approx(0.004)


def test_columns_and_units_can_be_named(write):
    path = write("t,p,o,limit\n1,5,6,100\n3,7,8,200\n")
    workload = read_log(path, Columns(arrival="t", prompt="p", output="o", cap="limit", unit="ms")).workload
    assert workload.arrival.tolist() == [0.0, 0.002] and workload.cap.tolist() == [100, 200]


def test_a_unit_that_nothing_says_is_taken_for_seconds_and_told(write):
    rows = "input_tokens,output_tokens\n0,1,2\n3,4,5\n"
    plain = read_log(write(f"arrival,{rows}"))
    assert plain.guessed == "arrival" and plain.workload.arrival.tolist() == [0.0, 3.0]
    named = read_log(write(f"Arrival_MS,{rows}"))
    assert named.guessed == "" and named.workload.arrival.tolist() == [0.0, 0.003]
    assert read_log(write(f"arrival,{rows}"), Columns(unit="s")).guessed == ""
    assert read_log(write("arrival,input_tokens,output_tokens\n2024-01-01,1,2\n2024-01-02,3,4\n")).guessed == ""
    assert read_log(write("input_tokens,output_tokens\n1,2\n3,4\n")).guessed == ""


def test_a_log_without_times_is_a_closed_loop(write):
    assert read_log(write("input_tokens,output_tokens\n1,2\n3,4\n")).workload.arrival is None


def test_outputs_are_cut_down_to_a_cap_and_counted(write):
    log = read_log(write(f"{HEADER}\n0,10,3\n1,20,9\n"), cap=5)
    assert log.workload.output.tolist() == [3, 5] and log.shortened == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("0,10,3\n5,,4", "line 3: input_tokens is missing"),
        ("0,10,3\n5,-4,4", "line 3: input_tokens is -4, not a whole number from 1"),
        ("0,10,0", "line 2: output_tokens is 0"),
        ("0,10,3.5", "line 2: output_tokens is 3.5"),
        ("0,ten,3", "line 2: input_tokens is 'ten', not a number"),
        ("0,10,nan", "line 2: output_tokens is nan"),
        ("soon,10,3", "line 2: arrival_ms is 'soon', neither a number nor a date"),
        ("inf,10,3", "line 2: arrival_ms is inf, not a time"),
        ("0,10", "line 2: 2 fields where the header has 3"),
        ("9,10,3\n5,10,3", "line 3: arrives before the one above it"),
        ("", "holds no request"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(write, rows, words):
    with pytest.raises(ValueError, match=words):
        read_log(write(f"{HEADER}\n{rows}\n"))


def test_bad_rows_can_be_skipped_and_are_counted(write):
    log = read_log(write(f"{HEADER}\n0,10,3\n1,,4\n2,x,4\n3,5,6\n"), skip_bad=True)
    assert log.workload.prompt.tolist() == [10, 5] and log.skipped == 2
    assert log.first_skipped == "line 3: input_tokens is missing"
    with pytest.raises(ValueError, match="holds no request; all 1 rows are malformed"):
        read_log(write(f"{HEADER}\n1,,4\n"), skip_bad=True)


def test_rows_can_be_sorted(write):
    log = read_log(write(f"{HEADER}\n9,10,3\n5,20,4\n"), sort=True)
    assert log.workload.prompt.tolist() == [20, 10] and log.workload.arrival.tolist() == pytest.approx([0, 0.004])


@pytest.mark.parametrize(
    ("name", "text", "columns", "words"),
    [
        ("log.csv", "a,b\n1,2\n", None, "no column of prompt tokens was found; name one of: a, b"),
        ("log.csv", "a,a\n1,2\n", None, "line 1: a column stands there twice"),
        ("log.csv", f"{HEADER}\n1,2,3\n", Columns(prompt="p"), "no column 'p'; it has: arrival_ms"),
        ("log.txt", "1 2\n", None, "must end in .csv, .jsonl"),
        ("log.jsonl", '{"input_tokens": 1\n', None, "line 1: not JSON"),
        ("log.jsonl", "[1, 2]\n", None, "line 1: not a JSON object"),
        ("log.parquet", "not parquet", None, "log.parquet: "),
    ],
)
def test_files_that_are_no_logs_are_refused(write, name, text, columns, words):
    with pytest.raises(ValueError, match=words):
        read_log(write(text, name), columns)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(ValueError, match=name):
            read_log(tmp_path / name)


def test_caps_from_two_places_are_refused(write):
    path = write(f"{HEADER},cap\n0,1,2,3\n")
    with pytest.raises(ValueError, match="column cap has caps"):
        read_log(path, Columns(cap="cap"), cap=7)


def test_a_real_log(data_file):
    workload = read_log(data_file("llm-traces/azure2023_conv.parquet")).workload
    assert len(workload) == 19_366 and workload.cap[0] == 1024
    assert (workload.output.max(), workload.prompt.max()) == (1000, 14_050)
    assert workload.arrival[0] == 0 and 3400 < workload.arrival[-1] < 3600
