"""The report: a static site of everything that was measured, and the comparisons that rooms add to it.

:func:`heedful.lab.report.site.write_site` writes the site; it stands apart because it needs all of the
report's libraries, and a command that only stores a comparison needs few of them.
"""

from heedful.lab.report.comparisons import write_comparison

__all__ = ["write_comparison"]
