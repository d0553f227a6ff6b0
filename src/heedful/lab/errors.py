"""What a command line tells in one line: what a user can put right, and work that failed."""


class LabError(ValueError):
    """One line that says what is wrong, where, and what to do; the command line prints no traceback."""


class WorkError(Exception):
    """One line that says why work that was rightly asked for came to an end: the command line's exit status 1."""
