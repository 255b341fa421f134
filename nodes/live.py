"""Sends what happened to the node on the canvas, while the graph is still running."""

import logging
from collections.abc import Callable, Sequence

from ..cache_core import Ledger

EVENT = "encore.report"


def listener(node_id: str | None, notes: Sequence[str] = ()) -> Callable[[Ledger], None]:
    """What a node gives to `attach`: at the end of a sampling it adds the node's `notes` to the ledger and shows it there."""

    def listen(ledger: Ledger) -> None:
        for note in notes:
            ledger.note(note)
        show(node_id, ledger)

    return listen


def show(node_id: str | None, ledger: Ledger) -> None:
    """Log one line, and show the ledger on the node with this id if ComfyUI's server is running."""
    logging.info("[Encore] %s%s", ledger, "".join(f"; {note}" for note in ledger.notes))
    try:
        from server import PromptServer
    except ImportError:  # ComfyUI used as a library
        return
    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_sync(EVENT, {"node": node_id, "run": ledger.to_dict()}, server.client_id)
