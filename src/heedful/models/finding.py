"""Where a model is that somebody names: a shipped one, a folder, or a model of the Hugging Face hub."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from .checkpoints import names, path


@dataclass(frozen=True)
class Found:
    """Where a model is.

    Attributes:
        where: what ``from_pretrained`` is given: a folder, or the id of a model of the hub.
        local: what it is given as ``local_files_only``: the hub is not asked, as it does not answer or must not be.
    """

    where: str
    local: bool


def find(name: str) -> Found:
    """Where the model of that name is.

    Args:
        name: a shipped model, a folder, or the id of a model of the hub. One that lies in the hub's cache is taken from
            there if the hub does not answer.

    The hub's own client tries an address that does not answer for most of a minute, file by file; so it is asked once
    here, for no longer than one of those attempts (``HF_HUB_ETAG_TIMEOUT``, 10 s).

    Raises ValueError, in one line that says where it was looked for, if there is no such folder, and for an id that is
    not in the cache while the hub does not answer.
    """
    if name in names():
        return Found(str(path(name)), local=True)
    if not name.strip():
        raise ValueError("model: no name, folder or id is given")
    try:
        folder = Path(name).expanduser()
    except RuntimeError:  # the home of somebody who is not known
        folder = Path(name)
    if folder.is_dir():
        return Found(str(folder), local=True)
    if name.startswith((".", "/", "~")):
        raise ValueError(f"model {name}: no such folder")
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError as error:
        raise ValueError(f"model {name}: no such folder, and no id of the hub, which is OWNER/NAME") from error
    silent = _silence(constants.HF_HUB_ETAG_TIMEOUT)
    if silent and not cached:
        raise ValueError(
            f"model {name}: is no shipped model ({', '.join(names())}), no folder, not in the hub's cache "
            f"({constants.HF_HUB_CACHE}), and {silent}, or give a folder"
        )
    return Found(name, local=bool(silent))


def _silence(limit_s: float) -> str:
    """Why the hub gives no answer, and how to mend it; empty if it does."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the hub: unset it"
    answer: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=limit_s):
                answer.put("")
        except HTTPError:  # an answer, whatever it says
            answer.put("")
        except (OSError, ValueError, HTTPException) as error:
            why = error.reason if isinstance(error, URLError) else error
            # Whoever sends a certificate is there; the hub's client has certificates of its own to judge it by.
            answer.put("" if isinstance(why, SSLError) else str(why) or type(why).__name__)

    threading.Thread(target=ask, daemon=True).start()  # to look up a host's address may take longer than any limit
    try:
        why = answer.get(timeout=limit_s)
    except queue.Empty:
        why = f"nothing in {limit_s:g} s"
    return why and f"{constants.ENDPOINT} does not answer ({why}): connect to a network"
