"""How many clips show what their prompt says, and how sure that number is.

A row is a pair (asked, verdict): what the prompt names, from `wanted` in judge.py, and what its clip shows, from
`judge` there. Everything returned is plain data that json.dumps takes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from utils.evaluation.judge import VALUES, Verdict

CORE = ("colour", "shape", "direction")
SCORED = (*CORE, "all", "strict", "speed", "size", "coherent")
NOTHING = "nothing"  # the column of a confusion matrix for clips about which nothing could be said
Asked = Mapping[str, str | None]
Row = tuple[Asked, Verdict]


def right(verdict: Verdict, asked: Asked) -> dict[str, bool]:
    """What of SCORED is right; attributes that the prompt does not name are left out.

    all: every one of CORE that the prompt names; left out if it names none. strict: all, and coherent.
    """
    hits = {name: getattr(verdict, name) == asked[name] for name in VALUES if asked[name] is not None}
    if core := [hits[name] for name in CORE if name in hits]:
        hits |= {"all": all(core), "strict": all(core) and verdict.coherent}
    hits["coherent"] = verdict.coherent
    return {name: hits[name] for name in SCORED if name in hits}


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927), at 95 % by default: unlike hits/count +- z * error, it stays inside
    [0, 1] and is not empty at 0 or all hits. (0, 1) if count is 0. Each clip counts as an independent trial."""
    if not 0 <= hits <= count:
        raise ValueError(f"{hits} hits of {count}")
    if count == 0:
        return 0.0, 1.0
    share, weight = hits / count, z**2 / count
    centre = share + weight / 2
    spread = (weight * share * (1 - share) + weight**2 / 4) ** 0.5
    low, high = (centre - spread) / (1 + weight), (centre + spread) / (1 + weight)
    return low, 1.0 if hits == count else high  # so it is but for rounding


def chance(asked: Sequence[Asked]) -> dict[str, float]:
    """What clips score that know the prompts but not which is whose: the expected share of right ones if all clips
    are right and the captions are then shuffled. Exact: by linearity, that is the share of all pairs (i, j), i = j
    included, in which clip j is right for prompt i.

    Left out: "coherent", which no caption changes, and what no prompt names.
    """
    shares = {}
    for scored, names in {**{name: (name,) for name in VALUES}, "all": CORE}.items():
        keys = Counter(tuple(each[name] for name in names) for each in asked)
        keys = {key: count for key, count in keys.items() if any(key)}  # those that name something
        pairs = sum(
            count * other_count
            for key, count in keys.items()
            for other, other_count in keys.items()
            if all(ask in (None, shown) for ask, shown in zip(key, other, strict=True))
        )
        if keys:
            shares[scored] = pairs / sum(keys.values()) ** 2
    if "all" in shares:
        shares["strict"] = shares["all"]
    return {name: shares[name] for name in SCORED if name in shares}


def score(rows: Iterable[Row]) -> dict[str, dict]:
    """For each of SCORED that any prompt names: {"right": clips, "of": clips, "share": right / of,
    "interval": [low, high] at 95 %, "chance": see `chance`, None for "coherent"}."""
    rows = list(rows)
    hits = [right(verdict, asked) for asked, verdict in rows]
    guessed = chance([asked for asked, _ in rows])
    scores = {}
    for name in SCORED:
        named = [each[name] for each in hits if name in each]
        if named:
            scores[name] = {
                "right": sum(named),
                "of": len(named),
                "share": sum(named) / len(named),
                "interval": list(wilson(sum(named), len(named))),
                "chance": guessed.get(name),
            }
    return scores


def score_groups(groups: Mapping[str, Iterable[Row]]) -> dict[str, dict[str, dict]]:
    """`score` of each group of rows, by name."""
    return {name: score(rows) for name, rows in groups.items()}


def confusion(rows: Iterable[Row], attribute: str) -> dict[str, dict[str, int]]:
    """{asked: {judged: clips}} for one of the five attributes, over the prompts that name it.

    One line for each value that was asked for, one column for each that was asked for or seen, and NOTHING last.
    """
    pairs = [(asked[attribute], getattr(verdict, attribute)) for asked, verdict in rows if asked[attribute]]
    count, lines = Counter(pairs), {ask for ask, _ in pairs}
    columns = lines | {shown for _, shown in pairs}
    values = VALUES[attribute]
    return {
        ask: {shown: count[ask, shown] for shown in values if shown in columns} | {NOTHING: count[ask, None]}
        for ask in values
        if ask in lines
    }


# Text for the terminal ------------------------------------------------------------------------------------------------


def score_table(groups: Mapping[str, Mapping[str, dict]]) -> str:
    """What `score_groups` returns as lines of text, a block for each group."""
    blocks = []
    for group, scores in groups.items():
        head = f"{group} ({plural(max((each['of'] for each in scores.values()), default=0), 'clip')})"
        lines = [("", "right", "of", "share", "95 % interval", "chance")]
        for name, each in scores.items():
            interval = " - ".join(f"{100 * end:.1f}" for end in each["interval"])
            guessed = "" if each["chance"] is None else f"{each['chance']:.1%}"
            lines.append((name, str(each["right"]), str(each["of"]), f"{each['share']:.1%}", interval, guessed))
        blocks.append(f"{head}\n{align(lines)}")
    return "\n\n".join(blocks)


def confusion_table(matrix: Mapping[str, Mapping[str, int]]) -> str:
    """What `confusion` returns as lines of text: a line for each value asked for, a column for each seen."""
    columns = list(next(iter(matrix.values()), {}))
    lines = [("asked \\ seen", *columns)]
    lines += [(ask, *(str(seen[name] or ".") for name in columns)) for ask, seen in matrix.items()]
    return align(lines)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, the first flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "\n".join("  " + "  ".join(cells).rstrip() for cells in padded)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)
