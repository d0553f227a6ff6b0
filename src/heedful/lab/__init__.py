"""The workbench: what an experiment is, how it is run, stored, judged and reported. It knows no room."""

from heedful.lab.declare import Cell, Claim, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

__all__ = ["Cell", "Claim", "Experiment", "Figure", "Metric", "Paper", "Row", "Scale", "Tuning"]
