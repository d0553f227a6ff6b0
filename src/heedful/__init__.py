"""heedful: act before you can know; be judged later."""

__version__ = "0.1.0"
