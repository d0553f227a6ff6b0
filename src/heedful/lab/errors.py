"""The error that the workbench raises for what a user can put right."""


class LabError(ValueError):
    """One line that says what is wrong, where, and what to do; the command line prints no traceback."""
