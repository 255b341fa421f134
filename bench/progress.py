"""The progress bar of a benchmark, with the time left."""

from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

from ..demo.agreement import Setting
from .contest import Course


class Bar:
    """Counts steps of prompts. What is to come is announced as soon as it is known."""

    def __init__(self, title: str) -> None:
        self._bar = tqdm(desc=title, unit="step", total=0, disable=None)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def __call__(self, prompts: int) -> None:
        """One step of so many prompts is done."""
        self._bar.update(prompts)

    def add(self, steps: int) -> None:
        """Announce so many steps."""
        self._bar.total += steps
        self._bar.refresh()

    def expect(self, course: Course, settings: Sequence[Setting], rounds: int | None = None) -> None:
        """Announce one sampling with each of `settings`, of all prompts or, in `rounds`, of one prompt at a time."""
        self._bar.total += sum(setting.steps for setting in settings) * (len(course.scenes) if rounds is None else rounds)
        self._bar.refresh()
