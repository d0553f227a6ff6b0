"""Public data sets: what they are, whether they lie on this machine as they should, and how to bring them there.

Nothing of them is shipped, and nothing is downloaded unless somebody asks for it with ``heedful data fetch``.
"""

from heedful.lab.data.declare import DataFile, Dataset
from heedful.lab.data.store import declared, find, folder, state

__all__ = ["DataFile", "Dataset", "declared", "find", "folder", "state"]
