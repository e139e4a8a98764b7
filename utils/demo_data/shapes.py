"""Moving shapes: what the demo dataset shows, how it is worded, and which combinations it never shows.

Ground truth of the demo data, in numpy alone: one flat shape travels in a straight line over a dark background. A clip
has five attributes: shape, colour, direction, speed and size. Lengths are fractions of the frame until they
become pixels; pixel coordinates are continuous, x to the right and y down, so a frame of S pixels spans [0, S] and the
centre of its first pixel is (0.5, 0.5). Every shape of radius r has the area of a circle, pi * r^2, so that size says
nothing about shape.
"""

import re
from collections import Counter
from itertools import product

import numpy as np

ATTRIBUTES = ("shape", "colour", "direction", "speed", "size")
SHAPES = ("square", "circle", "triangle")
COLOURS = {"red": (225, 45, 45), "green": (45, 190, 75), "blue": (55, 95, 235), "yellow": (240, 215, 50)}
HARD_COLOURS = COLOURS | {
    "orange": (245, 135, 25),
    "purple": (150, 65, 205),
    "cyan": (60, 215, 225),
    "white": (240, 240, 240),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {
    "slow": (0.26, 0.32),
    "fast": (0.42, 0.48),
}  # fraction of the frame travelled from the first to the last frame
SIZES = {"small": (0.16, 0.17), "large": (0.205, 0.215)}  # radius as a fraction of the frame
BACKGROUND = (24, 24, 28)

# Half extents (left, right, up, down) around the centroid of a shape of radius 1.
TRIANGLE_SIDE = float(np.sqrt(4 * np.pi / np.sqrt(3)))  # side of the equilateral triangle of area pi
HALF_SQUARE = float(np.sqrt(np.pi) / 2)
EXTENTS = {
    "square": (HALF_SQUARE,) * 4,
    "circle": (1.0,) * 4,
    "triangle": (TRIANGLE_SIDE / 2, TRIANGLE_SIDE / 2, TRIANGLE_SIDE / np.sqrt(3), TRIANGLE_SIDE / np.sqrt(12)),
}

# Sentence forms. {speed} follows a verb, {speed_first} opens a sentence, {speed_adjective} stands before a noun.
TRAIN_FORMS = (
    "a {size} {colour} {shape} moving {direction} {speed}",
    "{speed_first}, a {size} {colour} {shape} drifts {towards}",
    "the {colour} {shape} is {size} and goes {direction} {speed}",
    "a video of a {colour} {shape}, {size}, sliding {speed} {towards}",
    "a {speed_adjective} {size} {colour} {shape} going {direction}",
    "a {size} {shape} that is {colour} moves {towards} {speed}",
    "a {colour} {shape} moving {direction}",
    "the {colour} {shape} goes {towards}",
)
FULL_FORMS = tuple(form for form in TRAIN_FORMS if "{size}" in form)  # these mention all five attributes
HELDOUT_FORMS = (  # never a training caption, yet no word that training captions lack
    "a video of a {speed_adjective} {colour} {shape} that is {size} going {direction}",
    "the {size} {shape} is {colour} and moves {speed} {towards}",
    "a {colour} {shape} that is {size} moving {direction} {speed}",
    "{speed_first}, the {size} {shape} that is {colour} goes {towards}",
)
WORDS = {
    "size": {"small": ("small", "little"), "large": ("large", "big")},
    "speed": {"slow": ("slowly",), "fast": ("quickly", "fast")},
    "speed_first": {"slow": ("slowly",), "fast": ("quickly",)},
    "speed_adjective": {"slow": ("slow",), "fast": ("fast",)},
    "direction": {
        "left": ("left", "to the left"),
        "right": ("right", "to the right"),
        "up": ("up", "upwards"),
        "down": ("down", "downwards"),
    },
    "towards": {"left": ("to the left",), "right": ("to the right",), "up": ("upwards",), "down": ("downwards",)},
}


def is_held_out(shape: str, colour: str, direction: str) -> bool:
    """True for the (shape, colour, direction) triples that no training clip shows: a quarter of them, spread so that
    every shape, colour and direction, and every pair of them but the forbidden ones, is still seen."""
    i, j, k = SHAPES.index(shape), list(HARD_COLOURS).index(colour), list(DIRECTIONS).index(direction)
    return k == (i + j) % 4


def combinations(hard: bool = False, held_out: bool = False) -> list[dict]:
    """All attribute combinations that are seen in training (or, with held_out, those that never are)."""
    every = product(SHAPES, HARD_COLOURS if hard else COLOURS, DIRECTIONS, SPEEDS, SIZES)
    return [dict(zip(ATTRIBUTES, values, strict=True)) for values in every if is_held_out(*values[:3]) == held_out]


def shuffled_rounds(items: list, count: int, rng: np.random.Generator) -> list:
    """count items: whole rounds over `items`, each in its own random order, so no item leads another by more than 1."""
    rounds = [rng.permutation(len(items)) for _ in range(-(-count // len(items)))]
    return [items[i] for i in np.concatenate(rounds)[:count]] if rounds else []


def describe(attributes: dict, form: str, rng: np.random.Generator) -> str:
    """Caption of one object: `form` filled with the attributes' words; rng picks among synonyms."""
    values = [attributes[name] for name in ATTRIBUTES]
    options = {slot: next(table[value] for value in values if value in table) for slot, table in WORDS.items()}
    chosen = {slot: synonyms[rng.integers(len(synonyms))] for slot, synonyms in options.items()}
    text = form.format(shape=attributes["shape"], colour=attributes["colour"], **chosen)
    return re.sub(r"\ba (?=orange)", "an ", text)


def describe_clip(objects: list[dict], form: str, rng: np.random.Generator) -> str:
    """Caption of a clip: one clause an object, joined by "and"."""
    first, *others = (describe(attributes, form, rng) for attributes in objects)
    return " and ".join([first, *(other.removeprefix("a video of ") for other in others)])


def benchmark_prompts(
    count: int, hard: bool = False, held_out: bool = False, forms: tuple = (FULL_FORMS, HELDOUT_FORMS)
) -> list[str]:
    """The first `count` prompts of the benchmark, the same at every call; each names all five attributes of one object.

    They show combinations that training shows, or with held_out those that it never does. The groups of `forms` take
    turns: by default every second prompt, from the second on, is worded as no training caption is. After every 48
    prompts (96 if hard) the values of each attribute are exactly balanced, in either wording; in between, one leads
    another by at most 3. No two prompts are alike until the words run out.
    """
    rng = np.random.default_rng(0)
    shown, spare, prompts = Counter(), [[] for _ in forms], []
    for block in range(-(-count // (96 if hard else 48))):
        halves = [[half[i] for i in rng.permutation(len(half))] for half in _benchmark_block(block, hard, held_out)]
        for n in range(sum(map(len, halves))):
            turn, half = n % len(forms), n % 2
            chosen = min(halves[half], key=lambda one: sum(shown[v] + shown[half, v] for v in one.values()))  # noqa: B023
            halves[half].remove(chosen)
            shown.update([*chosen.values(), *((half, value) for value in chosen.values())])
            for _ in range(20):  # another form or synonym, if this very sentence is there already
                spare[turn] = spare[turn] or shuffled_rounds(list(forms[turn]), len(forms[turn]), rng)
                prompt = describe(chosen, spare[turn].pop(), rng)
                if prompt not in prompts:
                    break
            prompts.append(prompt)
    return prompts[:count]


def _benchmark_block(block: int, hard: bool, held_out: bool) -> tuple[list[dict], list[dict]]:
    """48 combinations (96 if hard) in two halves, one for each wording; both are balanced in every attribute.

    Held out: each triple with each speed and size. Seen: the directions rotate over the three that are shown, so that
    three blocks hold every combination once. Each block exchanges the halves.
    """
    names, halves = list(DIRECTIONS), ([], [])
    for (i, shape), (j, colour) in product(enumerate(SHAPES), enumerate(HARD_COLOURS if hard else COLOURS)):
        for q, (speed, size) in enumerate(product(SPEEDS, SIZES)):
            direction = names[(i + j + (0 if held_out else 1 + (i + q + block) % 3)) % 4]
            chosen = dict(zip(ATTRIBUTES, (shape, colour, direction, speed, size), strict=True))
            halves[(i + j + (q in (1, 2)) + block) % 2].append(chosen)
    return halves


def plan_clips(num_clips: int, seed: int, hard: bool = False) -> list[dict]:
    """What each clip shows: {attributes: [one dict per object], form: index into TRAIN_FORMS}, balanced in random
    order. A longer plan starts with the shorter one. Hard clips hold two objects of different colour half the time."""
    combos = combinations(hard)
    first = shuffled_rounds(combos, num_clips, np.random.default_rng([seed, 0]))
    forms = shuffled_rounds(list(range(len(TRAIN_FORMS))), num_clips, np.random.default_rng([seed, 1]))
    plan = [{"attributes": [attributes], "form": form} for attributes, form in zip(first, forms, strict=True)]
    if hard:
        rng = np.random.default_rng([seed, 2])
        for clip in plan:
            others = [combo for combo in combos if combo["colour"] != clip["attributes"][0]["colour"]]
            second = others[rng.integers(len(others))]
            if rng.random() < 0.5:
                clip["attributes"].append(second)
    return plan


def place(attributes: dict, num_frames: int, frame_size: int, rng: np.random.Generator) -> dict:
    """attributes plus a straight path: {..., rgb, radius: px, path: (T, 2) list of centroids (x, y) in px}.

    The whole shape stays inside the frame. A large fast triangle could need more than the frame's width: its travel is
    cut to what fits, which is still inside the range of "fast".
    """
    radius = rng.uniform(*SIZES[attributes["size"]])
    left, right, up, down = (radius * extent for extent in EXTENTS[attributes["shape"]])
    low, high = np.array([left, up]), np.array([1 - right, 1 - down])  # where the centroid may be
    step = np.array(DIRECTIONS[attributes["direction"]])
    travel = step * min(rng.uniform(*SPEEDS[attributes["speed"]]), ((high - low) * np.abs(step)).sum())
    start = rng.uniform(low - np.minimum(travel, 0), high - np.maximum(travel, 0))
    path = start + travel * np.linspace(0, 1, num_frames)[:, None]
    return attributes | {
        "rgb": list(HARD_COLOURS[attributes["colour"]]),
        "radius": round(float(radius) * frame_size, 4),
        "path": np.round(path * frame_size, 4).tolist(),
    }


def place_all(attributes: list[dict], num_frames: int, frame_size: int, rng: np.random.Generator) -> list[dict]:
    """Objects of one clip; with two, neither hides much of the other in the first or the last frame."""
    for _ in range(200):
        objects = [place(each, num_frames, frame_size, rng) for each in attributes]
        if len(objects) == 1:
            return objects
        a, b = objects
        gap = np.linalg.norm(np.subtract(a["path"], b["path"]), axis=1)[[0, -1]].min()
        if gap >= 0.9 * (a["radius"] + b["radius"]):
            return objects
    return objects[:1]  # two large shapes cannot always pass each other: then the clip, and its caption, has one


def coverage(shape: str, radius: float, path: np.ndarray, height: int, width: int) -> np.ndarray:
    """Share of each pixel that the shape covers, (T, H, W) in [0, 1], from the signed distance to its outline (px)."""
    path = np.asarray(path, dtype=np.float32)
    x = np.arange(width, dtype=np.float32) + 0.5 - path[:, 0, None, None]
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - path[:, 1, None, None]
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - HALF_SQUARE * radius
    elif shape == "triangle":  # upright; three half planes at the inradius from the centroid
        inradius = TRIANGLE_SIDE / 12**0.5 * radius
        distance = np.maximum(y, 3**0.5 / 2 * np.abs(x) - y / 2) - inradius
    else:
        raise ValueError(f"unknown shape {shape!r}: choose from {', '.join(SHAPES)}")
    return np.clip(0.5 - distance, 0, 1)


def texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A dim smooth background (H, W, 3) in 8-bit levels: eight random long waves a channel around BACKGROUND."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    frequency = rng.uniform(-3, 3, (2, 8, 3, 1, 1))
    waves = np.cos(2 * np.pi * (frequency[0] * x + frequency[1] * y + rng.random((8, 3, 1, 1))))
    return np.clip(np.array(BACKGROUND) + 12 + 7 * waves.sum(0).transpose(1, 2, 0), 0, 80)


def draw(objects: list[dict], num_frames: int, frame_size: int, background: np.ndarray | None = None) -> np.ndarray:
    """Render a clip, uint8 (T, S, S, 3) RGB; later objects cover earlier ones. background: (S, S, 3), default plain."""
    frames = np.empty((num_frames, frame_size, frame_size, 3), dtype=np.float32)
    frames[:] = BACKGROUND if background is None else background
    for thing in objects:
        alpha = coverage(thing["shape"], thing["radius"], thing["path"], frame_size, frame_size)[..., None]
        frames += alpha * (np.array(thing["rgb"], dtype=np.float32) - frames)
    return np.round(frames).astype(np.uint8)


def make_clip(plan: dict, index: int, seed: int, num_frames: int, frame_size: int, hard: bool) -> tuple:
    """(frames, caption, objects) of clip `index`; depends on the arguments alone."""
    rng = np.random.default_rng([seed, 3, index])
    objects = place_all(plan["attributes"], num_frames, frame_size, rng)
    background = texture(frame_size, frame_size, rng) if hard else None
    caption = describe_clip(objects, TRAIN_FORMS[plan["form"]], rng)
    return draw(objects, num_frames, frame_size, background), caption, objects
