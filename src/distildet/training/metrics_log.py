"""metrics.jsonl: one JSON record a line, in the order of the steps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distildet import artefacts


class MetricsLog:
    """Appends records and can forget those after a step.

    Args:
        path: The file; made with the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; it has "step", the number of finished steps.

        Raises:
            ResourceError: The disk is full.
        """
        artefacts.append_text(self.path, json.dumps(record, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Make sure that the records outlast a loss of power."""
        artefacts.flush_file(self.path)

    def keep_until(self, step: int) -> None:
        """Drop records after `step`, and a last line that a kill left half written."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                is_kept = json.loads(line)["step"] <= step and line.endswith(b"\n")
            except (ValueError, KeyError, TypeError):
                break
            if is_kept:
                kept.append(line)
        artefacts.write_bytes(self.path, b"".join(kept))
