"""Whether the files that models are mapped from are still those that were opened."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from distilrt.runtime.engine import Engine


class ServedFiles:
    """The weights' files of engines as they are now; arrays from memory have none.

    A mapped file that is overwritten or truncated in place changes answers, or ends the process by SIGBUS, whatever the
    kind of mapping. A file that was replaced by renaming is another one, and the mapped one stays as it is.
    """

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._seen: dict[str, os.stat_result] = {}
        for engine in engines:
            with suppress(OSError):
                self._seen[engine.model.weights.source] = os.stat(engine.model.weights.source)

    def changed(self) -> str | None:
        """A file that was written to since then; None: there is none."""
        for path, then in self._seen.items():
            with suppress(OSError):
                now = os.stat(path)
                same = (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)
                if same and (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
                    return path
        return None
