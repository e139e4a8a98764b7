"""What a peak of CUDA memory is made of: the allocator's own record of who asked for what."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

ROOT = str(Path(__file__).parents[1])
LIBRARIES = ("diffusers", "transformers", "peft", "accelerate", "torch/optim")  # named where no line of ours asked
MOST_EVENTS = 500_000


def recorded(call: Callable[[], object]) -> dict[str, float]:
    """{who asked for it: GiB} of what call() allocates and what of that is alive at its peak, the largest first."""
    torch.cuda.memory._record_memory_history(max_entries=MOST_EVENTS, stacks="python")
    try:
        call()
        torch.cuda.synchronize()
        events = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    return {site: nbytes / 2**30 for site, nbytes in alive_at_the_peak(events).most_common(12)}


def alive_at_the_peak(events: Iterable[dict]) -> Counter[str]:
    """Bytes by who asked for them, at the moment when most were alive. events: as in torch.cuda.memory._snapshot()."""
    alive: dict[int, tuple[int, str]] = {}
    total = most = 0
    peak: dict[int, tuple[int, str]] = {}
    events = list(events)
    for last, event in enumerate(events):
        if event["action"] == "alloc":
            alive[event["addr"]] = event["size"], site(event.get("frames", ()))
            total += event["size"]
        elif event["action"] == "free_completed" and event["addr"] in alive:
            total -= alive.pop(event["addr"])[0]
        rises = last + 1 < len(events) and events[last + 1]["action"] == "alloc"
        if total > most and not rises:  # copied at the top of a rise alone
            most, peak = total, dict(alive)
    sizes: Counter[str] = Counter()
    for nbytes, who in peak.values():
        sizes[who] += nbytes
    return sizes


def site(frames: Iterable[dict]) -> str:
    """The innermost line of ours, or of a library that we call, that asked for memory, as file:function."""
    for frame in frames:
        name = frame["filename"]
        if (name.startswith(ROOT) and "site-packages" not in name) or any(f"/{part}/" in name for part in LIBRARIES):
            return f"{Path(name).parent.name}/{Path(name).name}:{frame['name']}"
    return "elsewhere"
