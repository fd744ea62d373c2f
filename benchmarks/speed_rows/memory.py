"""How much memory a work holds at once."""

import itertools
import json
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from speed_rows.timing import Work


def peak_bytes(work: Work, folder: Path) -> int:
    """Return how much memory of tensors a work holds at once, beside what was there before.

    Args:
        work: On the CPU.
        folder: For the trace of the profiler.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    )
    return max(itertools.accumulate(change for _, change in changes))
