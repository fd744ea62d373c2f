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
        """Write one record; it has "step", the number of finished steps."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def keep_until(self, step: int) -> None:
        """Drop records after `step`, and a last line that a kill left half written."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                record = json.loads(line)
            except ValueError:
                break
            if record["step"] <= step and line.endswith("\n"):
                kept.append(line)
        artefacts.write_text(self.path, "".join(kept))
