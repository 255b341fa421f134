"""The one way a command fails: a line that says what was found and what to do."""

from pathlib import Path


class LaunchError(Exception):
    """A failure for the person at the keyboard, with the log that holds the details."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        """Keep the message on one line and add the log's path to it."""
        line = " ".join(message.split())
        super().__init__(f"{line} (log: {log})" if log else line)
