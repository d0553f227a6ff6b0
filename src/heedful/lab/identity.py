"""Which results belong together: the identity of a run, and where an experiment's code lies.

Results of different code never mix, and a change of unrelated code throws nothing away: a run is named by its
parameters, its inputs, the source of the modules that the experiment declares, and the versions of the
libraries that those modules import.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from heedful.lab.declare import Experiment, digest
from heedful.lab.errors import LabError

ENGINE = 1
"""Raised when the workbench itself changes what a cell computes, as by deriving its generator differently."""

MAJOR = {
    "numba": "numba",
    "numpy": "numpy",
    "polars": "polars",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "transformers": "transformers",
}
"""Imported name -> distribution, of the libraries whose minor version can change a number."""


@dataclass(frozen=True)
class Reference:
    """Where a worker finds an experiment: an attribute of a module, or of a script at ``path``."""

    module: str
    attribute: str
    path: str = ""

    @property
    def folder(self) -> Path:
        """Where the module's file lies."""
        return Path(self.path or sys.modules[self.module].__file__ or ".").parent

    def load(self) -> Experiment:
        """The experiment itself, imported in this process."""
        if self.path and self.module not in sys.modules:
            spec = importlib.util.spec_from_file_location(self.module, self.path)
            if spec is None or spec.loader is None:
                raise LabError(f"{self.path} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[self.module] = module
            spec.loader.exec_module(module)
        found: Experiment = getattr(importlib.import_module(self.module), self.attribute)
        return found


def locate(experiment: Experiment) -> Reference:
    """The module attribute that holds ``experiment``. Raises LabError if no importable module has it."""
    likely = [getattr(experiment.measure, "__module__", ""), getattr(experiment.cells, "__module__", "")]
    for name in dict.fromkeys([*likely, *sys.modules]):
        module = sys.modules.get(name)
        if module is None:
            continue
        for attribute, value in list(vars(module).items()):
            if value is not experiment:
                continue
            if name != "__main__":
                return Reference(name, attribute)
            spec, file = vars(module).get("__spec__"), vars(module).get("__file__")
            if spec is not None:
                return Reference(spec.name, attribute)
            if file:
                return Reference(f"_heedful_script_{Path(file).stem}", attribute, str(Path(file).resolve()))
    raise LabError(
        f"{experiment.slug}: workers import the experiment, so it must be an attribute of a module in a file"
    )


def source_files(module: str) -> dict[str, Path]:
    """Name -> file, of a module's source, or of every ``.py`` file in a package; nothing is imported."""
    top, *rest = module.split(".")
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            raise LabError(f"module {module!r}, which the experiment declares, is not installed")
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    if spec is None:
        raise LabError(f"module {module!r}, which the experiment declares, is not installed")
    if spec.submodule_search_locations is not None:
        return {
            f"{module}/{path.relative_to(folder).as_posix()}": path
            for folder in sorted(spec.submodule_search_locations)
            for path in sorted(Path(folder).rglob("*.py"))
        }
    if not spec.origin or not Path(spec.origin).is_file():
        return {}
    return {module: Path(spec.origin)}


def _imported(source: bytes) -> Iterator[str]:
    """The top-level names that a source file imports, wherever in the file."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@dataclass(frozen=True)
class Identity:
    """What a run's results depend on.

    Attributes:
        slug: the experiment.
        version: the experiment's own version.
        params: the scale's parameters after overrides.
        sources: source file's name -> SHA-256.
        inputs: what cells read beside their parameters -> content digest.
        versions: Python and the libraries that the sources import -> ``major.minor``.
        device: kind of device, ``"cpu"`` or ``"cuda"``.
    """

    slug: str
    version: int
    params: Mapping[str, Any]
    sources: Mapping[str, str]
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    device: str

    @cached_property
    def code(self) -> str:
        """Digest of everything but the parameters: what artifacts are filed under."""
        parts = (ENGINE, self.slug, self.version, dict(self.sources), dict(self.inputs), dict(self.versions))
        return digest(*parts, self.device)

    @cached_property
    def run_id(self) -> str:
        """Digest of everything: the name of the run's folder."""
        return digest(self.code, dict(self.params))


def files_of(experiment: Experiment) -> dict[str, Path]:
    """Name -> file, of all sources that a run of ``experiment`` depends on."""
    reference = locate(experiment)
    files = {} if not reference.path else {Path(reference.path).stem: Path(reference.path)}
    for module in (*experiment.modules, *(() if reference.path else (reference.module,))):
        files.update(source_files(module))
    return files


def identify(experiment: Experiment, params: Mapping[str, Any], device: str = "cpu") -> Identity:
    """The identity of a run of ``experiment`` with these parameters, as the code stands now."""
    sources, imported = {}, {"numpy"}
    for name, path in sorted(files_of(experiment).items()):
        content = path.read_bytes()
        sources[name] = hashlib.sha256(content).hexdigest()
        if path.suffix == ".py":
            imported.update(_imported(content))
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in sorted(imported & set(MAJOR)):
        try:
            versions[MAJOR[name]] = ".".join(importlib.metadata.version(MAJOR[name]).split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            versions[MAJOR[name]] = "absent"
    inputs = dict(experiment.inputs(params)) if experiment.inputs else {}
    return Identity(experiment.slug, experiment.version, params, sources, inputs, versions, device.partition(":")[0])
