"""What a policy needs beside a budget: trained parts, a drafter, a family of models that it can work with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from heedful.kv.base import Policy
from heedful.kv.commands.options import unsized
from heedful.lab.errors import LabError


def able(
    specs: Iterable[str], load: Callable[[], Any], left_out: Callable[[str], None] | None = None
) -> tuple[str, ...]:
    """The policies that can serve a model.

    Args:
        specs: policies, as :func:`heedful.kv.policies.make` takes them.
        load: the model; called once at most, and only if some policy wants to see it. What depends on its weights
            is not checked if it has none (on the ``meta`` device).
        left_out: told why a policy is left out.

    Raises LabError for a policy that cannot serve the model unless ``left_out`` is told.
    """
    found: list[str] = []
    model: Any = None
    for spec in specs:
        policy = unsized(spec)
        if type(policy).attach is not Policy.attach:
            model = load() if model is None else model
            try:
                policy.attach(model)
            except NotImplementedError:
                if model.device.type != "meta":
                    raise
            except (ValueError, OSError) as error:
                told = f"policy {spec!r}: {str(error).removeprefix(f'{policy.name}: ')}"
                if left_out is None:
                    raise LabError(told) from error
                left_out(f"left out: {told}")
                continue
        found.append(spec)
    return tuple(found)
