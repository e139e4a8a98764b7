"""The house rules: who may import whom, and how large a room may be. Read from the source, nothing is run."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_FILES, MOST_LINES = 9, 400  # of a package, __init__.py apart; of a file
# From below to above: a package imports from its own line and the lines before it alone.
LAYERS = (
    ("models.metrics", "models.robots", "models.svd", "models"),
    ("models.adapters", "models.diffusion"),
    ("utils",),  # what lies at its root: cli, files, hardware
    ("utils.arguments", "utils.decoding"),
    ("utils.video",),
    ("utils.lerobot", "utils.motion"),
    ("utils.data", "utils.demo_data"),
    ("utils.conditions", "utils.frame_folders", "utils.latents"),
    ("utils.pretrained",),
    ("utils.runs",),
    ("utils.export", "utils.logs", "utils.svd"),
    ("utils.training",),
    ("utils.evaluation",),
    ("utils.drawing",),
    ("utils.page", "utils.robots", "utils.task_scores"),
    ("scripts",),
    ("tests",),  # what lies at its root: clips and tiny models
    ("benchmarks.*",),
    ("tests.*",),
)
# The dataset class is a script's, because the guide says so; whatever trains or compares on clips takes it from there.
SHARED_SCRIPT = "video_dataset"


@dataclass(frozen=True)
class Import:
    importer: str  # modules, as utils.decoding.read
    imported: str
    line: int


class House:
    """The Python files under a folder, and the imports among them."""

    def __init__(self, root: Path = ROOT):
        paths = (
            path for folder in ("models", "utils", "tests", "benchmarks") for path in (root / folder).rglob("*.py")
        )
        self.files = {self._module(path.relative_to(root)): path for path in sorted([*root.glob("*.py"), *paths])}
        self.imports = [found for module, path in self.files.items() for found in self._imports(module, path)]

    @staticmethod
    def _module(path: Path) -> str:
        return ".".join(path.with_suffix("").parts).removesuffix(".__init__")

    def _imports(self, module: str, path: Path) -> Iterator[Import]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in self.files else node.module for name in names]
            else:
                continue
            for name in dict.fromkeys(names):
                if name in self.files and name != module:
                    yield Import(module, name, node.lineno)

    def package(self, module: str) -> str:
        """The package of a module, which may be the module itself; "scripts" for the files at the top."""
        if self.files[module].name == "__init__.py":
            return module
        return module.rpartition(".")[0] or "scripts"

    def arrows(self) -> Counter[tuple[str, str]]:
        """{(package, package it imports from): imports}."""
        pairs = ((self.package(found.importer), self.package(found.imported)) for found in self.imports)
        return Counter((importer, imported) for importer, imported in pairs if importer != imported)

    def sizes(self) -> dict[str, int]:
        """{package: its files, __init__.py apart}."""
        return Counter(self.package(module) for module, path in self.files.items() if path.name != "__init__.py")

    def problems(self) -> list[str]:
        """What breaks the rules, a line each."""
        return [*self._upward(), *self._circles(), *self._too_large()]

    def _upward(self) -> Iterator[str]:
        for found in self.imports:
            importer, imported = self.package(found.importer), self.package(found.imported)
            where = f"{found.importer} imports {found.imported} (line {found.line})"
            if _layer(imported) > _layer(importer):
                yield f"an arrow up: {where}"
            elif importer == imported == "scripts" and found.imported != SHARED_SCRIPT:
                yield f"scripts do not import each other: {where}"

    def _circles(self) -> Iterator[str]:
        files, packages = defaultdict(set), defaultdict(set)
        for found in self.imports:
            if self.files[found.importer].name != "__init__.py":  # a table's rows import their table
                files[found.importer].add(found.imported)
        for (importer, imported), _ in self.arrows().items():
            if _layer(importer) < _layer("scripts"):
                packages[importer].add(imported)
        for circle in filter(None, (find_circle(files), find_circle(packages))):
            yield f"a circle: {' -> '.join(circle)}"

    def _too_large(self) -> Iterator[str]:
        for package, count in self.sizes().items():
            if count > MOST_FILES and package != "scripts":
                yield f"{package} has {count} files, at most {MOST_FILES} may be in a package: make a room"
        for path in self.files.values():
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > MOST_LINES:
                yield f"{path.name} of {path.parent.name} has {lines} lines, at most {MOST_LINES} may be in a file"

    def drawing(self) -> str:
        """The packages from above to below, each with its files and the packages it imports from."""
        arrows, lines = self.arrows(), []
        for package, count in sorted(self.sizes().items(), key=lambda item: (-_layer(item[0]), item[0])):
            targets = sorted((imported, n) for (importer, imported), n in arrows.items() if importer == package)
            text = ", ".join(f"{imported} ({n})" for imported, n in targets) or "nothing of ours"
            lines.append(f"{package:24} {count:2} files  imports {text}")
        return "\n".join(lines)


def _layer(package: str) -> int:
    """The height of a package in LAYERS, by its own name or as one of a family. Raises ValueError if it is in none."""
    for name in (package, f"{package.split('.')[0]}.*"):
        for height, layer in enumerate(LAYERS):
            if name in layer:
                return height
    raise ValueError(f"{package} is a new room: give it a place in LAYERS of tests/house/rules.py")


def find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A path that ends where it began, or None."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for target in sorted(graph.get(node, ())):
            if found := walk(target, [*path, node]):
                return found
        done.add(node)
        return None

    return next(filter(None, (walk(node, []) for node in sorted(graph))), None)
