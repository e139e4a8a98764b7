"""The figures of a GPU as a table: measured, predicted, and how far apart."""

import signal

TOLERANCE = 0.05  # what differs more from its prediction is named


def in_words(status: int) -> str:
    """How a process ended."""
    if status == 0:
        return "done"
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"


def lines(parts: dict[str, dict]) -> list[tuple[str, str, str, object, object, float | None]]:
    """(part, what, figure, measured, predicted, ratio) of everything that was found or has failed."""
    found = []
    for name, part in parts.items():
        if part["ended"] != "done":
            found.append((name, "the part itself", "", part["ended"], None, None))
        for row in part["rows"]:
            measured, predicted = row.get("measured", {}), row.get("predicted", {})
            if "failed" in row:
                found.append((name, row["what"], "", row["failed"], None, None))
            for figure, value in measured.items():
                expected = predicted.get(figure)
                ratio = value / expected if expected and isinstance(value, int | float) else None
                found.append((name, row["what"], figure, value, expected, ratio))
    return found


def differing(parts: dict[str, dict]) -> list[str]:
    """What was predicted and is more than TOLERANCE away from it, a line each."""
    return [
        f"{part}, {what}, {figure}: {value:.4g} where {expected:.4g} was predicted ({ratio - 1:+.0%})"
        for part, what, figure, value, expected, ratio in lines(parts)
        if ratio is not None and abs(ratio - 1) > TOLERANCE
    ]


def markdown(result: dict) -> str:
    """The whole result, to be read."""
    hardware = result["hardware"]
    text = [
        f"# {hardware['gpu'] or hardware['cpu']}, {result['date']}",
        "",
        f"`{result['command']}`, torch {hardware['versions'].get('torch')}, {hardware['cores']} cores.",
        "",
        "| part | what | figure | measured | predicted | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for part, what, figure, value, expected, ratio in lines(result["parts"]):
        numbers = ["" if n is None else f"{n:.4g}" if isinstance(n, float) else str(n) for n in (value, expected)]
        cells = [part, what, figure, *numbers, "" if ratio is None else f"{ratio:.2f}"]
        text.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    apart = differing(result["parts"])
    text += ["", f"More than {TOLERANCE:.0%} from what was predicted: {len(apart) or 'nothing'}.", ""]
    return "\n".join(text + [f"- {line}" for line in apart]) + "\n"
