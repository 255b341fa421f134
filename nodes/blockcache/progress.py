"""Says on a node what its work will cost and how long it will still take, while it works."""

import time

import comfy.utils


class Progress:
    """The host's progress bar over `total` steps, and beside it a text on the node: `cost`, and from the second step on the time left.

    The first step is left out of the estimate, since the model is loaded before it ends. `title` stands before what the console says.
    """

    def __init__(self, node_id: str | None, title: str, cost: str, total: int) -> None:
        self._node_id, self._title, self._cost, self._total = node_id, title, cost, total
        self._bar = comfy.utils.ProgressBar(total)
        self._done, self._first, self._began = 0, 0, 0.0
        print(f"{title}: {cost}", flush=True)
        show(node_id, cost)

    def update(self, steps: int) -> None:
        """So many steps more are done."""
        self._bar.update(steps)
        before, self._done, now = self._done, self._done + steps, time.perf_counter()
        if not before:
            self._first, self._began = steps, now
            return
        left = duration((self._total - self._done) * (now - self._began) / (self._done - self._first))
        if before == self._first:
            print(f"{self._title}: {left} to go", flush=True)
        show(self._node_id, f"{self._cost}\n{self._done} of {self._total} steps, {left} to go")


def duration(seconds: float) -> str:
    """Seconds for people: minutes from two of them on."""
    return f"some {seconds:.0f} s" if seconds < 120.0 else f"some {seconds / 60.0:.0f} min"


def show(node_id: str | None, text: str) -> None:
    """Show a text on the node with this id if ComfyUI's server is running."""
    try:
        from server import PromptServer
    except ImportError:  # ComfyUI used as a library
        return
    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
