"""The device that tensors are placed on: that there is one of that name here, and an experiment that would use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heedful.lab.errors import LabError

if TYPE_CHECKING:
    import torch

    from heedful.lab.declare import Experiment

CPU = "cpu"


def check_device(device: str) -> torch.device:
    """The device by name. Raises LabError if there is no such device here."""
    import torch

    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise LabError(f"--device {device!r}: not a device; cpu, cuda, cuda:1 and mps are") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise LabError(f"--device {device}: this torch sees {have or 'no'} CUDA device{'s' if have > 1 else ''}")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise LabError(f"--device {device}: this torch sees no MPS device")
    if found.type not in ("cpu", "cuda", "mps"):
        raise LabError(f"--device {device!r}: cpu, cuda and mps are supported")
    return found


def check_device_of(experiments: Sequence[Experiment], device: str) -> None:
    """Raises LabError if there is no such device here, or none of the experiments places anything on one.

    The processor is there for all of them, and nothing is imported to say so.
    """
    if device == CPU:
        return
    if not any(experiment.on_device for experiment in experiments):
        who = f"{experiments[0].slug} has" if len(experiments) == 1 else "these systems have"
        raise LabError(f"--device {device}: {who} no tensors to place there; leave the option out")
    from heedful.lab.doctor import require

    for room in {experiment.room for experiment in experiments if experiment.on_device}:
        require(room)
    check_device(device)
