"""Rows are checked where they are made; what is stored is what was measured, whatever happened meanwhile."""

from __future__ import annotations

import math
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import toy_cheap

import heedful.lab as lab
import heedful.lab.store
from heedful.lab import results
from heedful.lab.files import write_atomic
from heedful.lab.parts import DamagedPartError, list_parts
from heedful.lab.rows import Columns, combine_repeats
from heedful.lab.run import run
from heedful.lab.store import Store
from heedful.lab.workers import Outcome

COLUMNS = Columns(("item", "phase"), ("reward", "loss"), ("seconds",))
CELL = lab.Cell.of(method="ours", seed=0)
TIMED = lab.Cell.of(method="ours", seed=0, exclusive=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"reward": 1.0, "colour": 2.0}, "row 0: column 'colour' is neither a declared metric"),
        ({"reward": 1.0, "method": "ours"}, "row 0: column 'method' is a parameter of the cell"),
        ({"item": 1}, "row 0 reports no metric; declared are reward, loss, seconds"),
        ({"reward": "high"}, "row 0: metric 'reward' is str 'high', not a number"),
        ({"reward": 1j}, "row 0: metric 'reward' is complex"),
        ({"reward": 1.0, "seconds": 0.5}, "row 0: timing 'seconds' may be reported by exclusive cells only"),
        ({"reward": 1.0, "item": [1]}, "row 0: dimension 'item' is a list, not a scalar"),
        ({"reward": 1.0, "item": 2**63}, "row 0: dimension 'item' is an integer of more than 64 bits"),
        ([1.0], "row 0 is a list, not a mapping"),
    ],
)
def test_undeclared_rows_are_refused(row: Any, message: str) -> None:
    with pytest.raises(lab.LabError) as caught:
        COLUMNS.check([row], CELL)
    assert str(caught.value).startswith(message)


def test_rows_of_a_cell_are_told_apart_by_dimensions() -> None:
    with pytest.raises(lab.LabError, match=r"row 1: another row of the cell has the same dimensions \(item=1"):
        COLUMNS.check([{"item": 1, "reward": 1.0}, {"item": 1, "reward": 2.0}], CELL)
    with pytest.raises(lab.LabError, match="row 1: dimension 'item' is text, a number before"):
        COLUMNS.check([{"item": 1, "reward": 1.0}, {"item": "1", "reward": 2.0}], CELL)
    with pytest.raises(lab.LabError, match="no rows"):
        COLUMNS.check([], CELL)


def test_rows_become_plain_tuples() -> None:
    rows = [{"item": np.int64(3), "reward": np.float32(0.5)}, {"phase": "late", "reward": True, "loss": None}]
    measured = COLUMNS.check(rows, CELL)
    assert measured.values == [(3, None, 0.5, None), (None, "late", 1.0, None)]
    assert [type(value) for value in measured.values[0]] == [int, type(None), float, type(None)]
    assert measured.kinds == ("a number", "text")


def test_cell_parameter_may_not_shadow_a_column() -> None:
    with pytest.raises(lab.LabError, match="cell parameter 'item' has the name of another column"):
        COLUMNS.check_params(lab.Cell.of(item=3))
    with pytest.raises(lab.LabError, match="cell parameter 'stage'"):
        COLUMNS.check_params(lab.Cell.of(stage="late"))


def test_repeats_give_median_and_quartiles() -> None:
    repeats = [COLUMNS.check([{"reward": math.nan, "seconds": value}], TIMED) for value in (5.0, 1.0, 2.0, 3.0, 4.0)]
    combined = combine_repeats(repeats)
    assert combined.timings == [(3.0, 2.0, 4.0)]
    other = COLUMNS.check([{"reward": 1.0, "seconds": 1.0}], TIMED)
    with pytest.raises(lab.LabError, match="repeat 6 gave other values"):
        combine_repeats([*repeats, other])


def outcome(seed: int, columns: Columns = COLUMNS, **row: Any) -> Outcome:
    cell = lab.Cell.of(method="ours", seed=seed)
    rows = [{"item": item, "reward": seed + item / 10} | row for item in range(2)]
    return Outcome(cell, columns.check(rows, cell), "", 0.01)


def store_all(folder: Path, outcomes: list[Outcome], each: int) -> Path:
    """A store of these outcomes, a part for every ``each`` of them."""
    store = Store(folder, COLUMNS)
    store.set_cells({"measure": [found.cell for found in outcomes]})
    for index, found in enumerate(outcomes, start=1):
        assert store.add(found) == ""
        store.flush(force=index % each == 0)
    store.flush(force=True)
    store.compact()
    store.close()
    return folder


def test_bytes_do_not_depend_on_order_or_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on whether many parts were merged on the way."""
    monkeypatch.setattr(heedful.lab.store, "_MANY_PARTS", 3)
    outcomes = [outcome(seed) for seed in range(30)]
    shuffled = random.Random(0).sample(outcomes, 30)
    first = list_parts(store_all(tmp_path / "a", outcomes, each=30))
    second = list_parts(store_all(tmp_path / "b", shuffled, each=4))
    assert len(first) == len(second) == 1
    assert first[0].values.read_bytes() == second[0].values.read_bytes()
    assert results.values(tmp_path / "a").equals(results.values(tmp_path / "b"))


def test_every_kill_point_of_a_compaction_keeps_every_cell_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer dies before its n-th file operation, for every n until none is left."""

    class Killed(BaseException):
        pass

    outcomes = [outcome(seed) for seed in range(6)]
    whole = results.values(store_all(tmp_path / "whole", outcomes, each=6))
    replace, unlink = os.replace, Path.unlink
    for survived in range(20):
        folder = tmp_path / str(survived)
        store = Store(folder, COLUMNS)
        store.set_cells({"measure": [found.cell for found in outcomes]})
        for found in outcomes:
            store.add(found)
            store.flush(force=True)
        left = survived

        def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return operation(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(replace))
            patch.setattr(Path, "unlink", counted(unlink))
            try:
                store.compact()
                finished = True
            except Killed:
                finished = False
        store._lock.close()
        reopened = Store(folder, COLUMNS)
        assert reopened.done == {found.cell.id for found in outcomes} and not reopened.notices
        reopened.compact()
        reopened.close()
        assert results.values(folder).equals(whole)
        if finished:
            break
    assert finished and survived > 6


def test_truncated_and_lone_parts_are_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path, COLUMNS)
    for seed in range(3):
        store.add(outcome(seed))
        store.flush(force=True)
    store.close()
    parts = list_parts(tmp_path)
    parts[0].values.write_bytes(parts[0].values.read_bytes()[:100])
    assert parts[1].timings is not None
    parts[1].timings.unlink()
    with pytest.raises(DamagedPartError):
        parts[0].read()
    (tmp_path / "parts" / "000009.abc.parquet.77.tmp").write_bytes(b"half")
    again = Store(tmp_path, COLUMNS)
    assert again.done == {outcome(2).cell.id}
    assert len(again.notices) == 2
    assert not list(tmp_path.glob("*/*.tmp"))
    again.close()


def test_dimension_holds_one_kind_throughout(tmp_path: Path) -> None:
    store = Store(tmp_path, COLUMNS)
    assert store.add(outcome(0, phase="late")) == ""
    assert store.add(outcome(1, phase=3)) == "dimension 'phase' is a number here, text in other cells"
    store.close()
    reopened = Store(tmp_path, COLUMNS)
    assert "text in other cells" in reopened.add(outcome(2, phase=True))
    assert reopened.failures.keys() == {outcome(1).cell.id, outcome(2).cell.id}
    reopened.close()


def test_parameters_keep_their_type_or_become_text(tmp_path: Path) -> None:
    cells = [lab.Cell.of(budget=64, alpha=1), lab.Cell.of(budget="all", alpha=0.5), lab.Cell.of(on=True)]
    store = Store(tmp_path, COLUMNS)
    store.set_cells({"measure": cells})
    store.close()
    frame = results.cells(tmp_path)
    assert frame.schema["budget"] == pl.String and set(frame["budget"]) == {"64", "all", None}
    assert frame.schema["alpha"] == pl.Float64
    assert frame.schema["on"] == pl.Boolean
    assert results.read(tmp_path).is_empty()


def test_atomic_write_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def processor_seconds() -> float:
    """Of this process and of every child that has ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def test_cheap_cells_cost_little(tmp_path: Path) -> None:
    """0.2 ms of the workbench's own time per cell: the driver's and the worker's, less what a run of few cells takes.

    Processor time, for a busy machine; ``benchmarks/lab.py`` measures 100,000 cells by the clock.
    """
    spent = []
    for seeds in (1, 2, 10_000):
        begun = processor_seconds()
        result = run(toy_cheap.experiment, "small", seeds=seeds, workers=1, out=tmp_path)
        spent.append(processor_seconds() - begun)
        assert result.done == 2 * seeds
    assert (spent[2] - spent[1]) / 20_000 < 0.2e-3
