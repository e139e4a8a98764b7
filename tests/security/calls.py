"""Calls that could run what a file holds, found in the syntax tree of Python files, not in their text."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Whatever is done with them. Names of modules as they are imported; without a dot, builtins.
BANNED = {
    *("eval", "exec", "os.system", "os.popen", "pty.spawn", "code.interact", "runpy.run_path", "tempfile.mktemp"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *("dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "jsonpickle.decode"),
    *("pandas.read_pickle", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.UnsafeLoader"),
    *("torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "shutil.unpack_archive"),
}
# Methods, by whatever object has them: accelerate's load pickles, extracted archives may write anywhere.
BANNED_METHODS = {"register_for_checkpointing", "load_state", "save_state", "extractall", "load_textual_inversion"}
# Calls that are safe with this keyword and no other way.
NEEDS = {"torch.load": ("weights_only", True)}
# Keywords that no call may have with another value than this.
KEYWORDS = {"shell": False, "allow_pickle": False, "trust_remote_code": False, "weights_only": True, "verify": True}
# Loaders of models without weights: these may be called without use_safetensors=True.
WITHOUT_WEIGHTS = ("Tokenizer", "TokenizerFast", "Config", "Processor", "FeatureExtractor", "Scheduler")

# (file, what is found there): why it is there all the same.
TO_SHOW_THAT_THEY_ARE = "executes the hostile files, to show that they are hostile"
ALLOWED = {
    ("utils/evaluation/video_metrics.py", "torch.jit.load"): "--fvd_weights is a program by nature, as its help says",
    ("tests/docs/test_docs.py", "exec"): "runs the Python blocks of this repository's README",
    ("tests/latents/test_export.py", "trust_remote_code=True"): "loads what this repository has just exported",
    ("tests/conditions/test_training.py", "trust_remote_code=True"): "loads what this repository has just exported",
    ("tests/conditions/test_files.py", "allow_pickle=True"): "writes an array of objects, which is to be refused",
    ("tests/data/test_samples.py", "pickle.loads"): "of what it has just pickled, as a DataLoader does",
    ("tests/security/models.py", "pickle.loads"): TO_SHOW_THAT_THEY_ARE,
    ("tests/security/models.py", "torch.load without weights_only=True"): TO_SHOW_THAT_THEY_ARE,
    ("tests/security/models.py", "weights_only=False"): TO_SHOW_THAT_THEY_ARE,
    ("tests/security/models.py", "trust_remote_code=True"): TO_SHOW_THAT_THEY_ARE,
}


def unsafe_calls(source: str, product: bool) -> Iterator[tuple[int, str]]:
    """(line, what) of each unsafe call in a source text. product: models must be loaded without pickles and code."""
    tree = ast.parse(source)
    imported = dict(_imports(tree))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = _dotted(node, imported)
            if name in BANNED or name.rsplit(".", 1)[-1] in BANNED_METHODS:
                yield node.lineno, name
            elif name in NEEDS and id(node) not in called:
                yield node.lineno, f"{name} handed on"
        elif isinstance(node, ast.Call):
            name, keywords = _dotted(node.func, imported), {word.arg: word.value for word in node.keywords}
            if name in NEEDS:
                word, value = NEEDS[name]
                if not _is(keywords.get(word), value):
                    yield node.lineno, f"{name} without {word}={value}"
            for word, value in KEYWORDS.items():
                if word in keywords and not _is(keywords[word], value):
                    yield node.lineno, f"{word}={ast.unparse(keywords[word])}"
            *owner, method = name.split(".")
            if product and method == "from_pretrained":
                if not owner[-1].endswith(WITHOUT_WEIGHTS) and not _is(keywords.get("use_safetensors"), True):
                    yield node.lineno, f"{name} without use_safetensors=True"
                if "trust_remote_code" not in keywords and re.match("Auto(?!encoder)", owner[-1]):
                    yield node.lineno, f"{name} without trust_remote_code=False"  # at a terminal it would ask


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(name in this file, full name) of what is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr, imported: dict[str, str]) -> str:
    """torch.load of `torch.load`, and of `load` after `from torch import load`; what is no name becomes "?"."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, imported)}.{node.attr}"
    return imported.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def in_the_repository() -> tuple[list[str], list[str]]:
    """("file:line: what" of each unsafe call in the Python files of the repository, the same of those in ALLOWED)."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."]
    ours = [folder for folder in folders if not (folder / "pyvenv.cfg").exists()]
    found, allowed = [], []
    for path in sorted([*ROOT.glob("*.py"), *(path for folder in ours for path in folder.rglob("*.py"))]):
        name = path.relative_to(ROOT).as_posix()
        for line, what in unsafe_calls(path.read_text(encoding="utf-8"), product=not name.startswith("tests/")):
            (allowed if (name, what) in ALLOWED else found).append(f"{name}:{line}: {what}")
    return found, allowed
