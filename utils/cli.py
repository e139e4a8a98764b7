"""What every script's command line has in common: errors of one line, all bad flags at once, honest exit statuses.

Exit statuses: 0 done; 2 something the user can correct (one line per problem, no traceback); 3 training diverged;
130, 143 and 129 stopped by Ctrl-C, SIGTERM or SIGHUP after saving; 1 a bug, with its traceback.
"""

import argparse
import difflib
import errno
import io
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path


class UserError(Exception):
    """Something the user can correct; the message is one line that names the flag or file and the remedy."""

    exit_status = 2


class Diverged(UserError):
    """Training produced a loss or gradient that is not a number."""

    exit_status = 3


class Stopped(Exception):
    """Training was asked to stop by a signal and has saved its state."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_status = 128 + signal_number


# What libraries say when memory is short: CUDA, torch on the CPU, NumPy, the operating system.
_NO_MEMORY = re.compile(r"(?i)out of memory|not enough memory|allocate memory|unable to allocate|ALLOC_FAILED")

# What looks like a token of the hub, a password in an address, or the value of something called a key.
_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{30,}|(?<=://)[^/@\s]+(?=@)|(?i:(?<=token=)|(?<=key=)|(?<=secret=)|(?<=password=))[^&\s]+"
)
_SECRET_NAME = re.compile(r"(?i)token(?!s)|key|secret|password")

# A full, broken or read-only disk, a permission, a name too long: whichever script meets them, no bug of it.
THE_DISKS_FAULT = (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG, errno.ENOSPC, errno.EROFS)


class Bad(str):
    """What a flag's type returns instead of a value it cannot accept: what was expected, for the error message."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows defaults, takes no abbreviations, suggests the nearest flag for a misspelt one, and
    reports every bad value together. `checks` are functions of the parsed arguments that yield further problems."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", DefaultsFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.checks: list[Callable[[argparse.Namespace], Iterable[str]]] = []
        self.misspelt: list[str] = []

    def parse_args(self, args=None, namespace=None):
        argv = sys.argv[1:] if args is None else list(args)
        words = [word for word in argv if word.startswith("--") and word != "--"]
        self.misspelt = [word for word in words if word.split("=")[0] not in self._option_string_actions]
        parsed, unknown = self.parse_known_args(argv, namespace)
        flags = [word for word in unknown if word.startswith("-")]
        problems = [self._unknown(word) for word in flags or unknown]  # what follows a misspelt flag is its value
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Bad):
                    problems.append(f"{action.option_strings[0]}: {item}")
        if not problems:
            problems = [problem for check in self.checks for problem in check(parsed)]
        if problems:
            self.refuse(problems)
        return parsed

    def error(self, message: str):
        """What argparse itself refuses, in one line; a misspelt flag may be why another one is missing."""
        self.refuse([f"{message}; see --help", *map(self._unknown, self.misspelt)])

    def refuse(self, problems: Iterable[str]):
        self.exit(2, "".join(f"{self.prog}: error: {printable(problem)}\n" for problem in problems))

    def _unknown(self, flag: str) -> str:
        if not flag.startswith("-"):
            return f"got {flag!r} without a flag before it; quote values that hold spaces"
        known = [option for action in self._actions for option in action.option_strings]
        close = difflib.get_close_matches(flag.split("=")[0], known, n=1)
        return f"{flag}: no such flag" + (f", did you mean {close[0]}?" if close else "; see --help")


class DefaultsFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one, and leaves the example in the epilog as it is."""

    def _get_help_string(self, action):
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def integer(low: int, high: int = 2**63 - 1, multiple_of: int = 1) -> Callable[[str], int | Bad]:
    """An argparse type: whole numbers from low to high."""

    def parse(text: str) -> int | Bad:
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
        if value is None or not low <= value <= high or value % multiple_of:
            limits = f"at least {low}" if high == 2**63 - 1 else f"from {low} to {high}"
            kind = "whole number" if multiple_of == 1 else f"multiple of {multiple_of}"
            return Bad(f"got {text}, must be a {kind} {limits}")
        return value

    return parse


def number(low: float = -math.inf, high: float = math.inf, above: bool = False) -> Callable[[str], float | Bad]:
    """An argparse type: finite numbers from low to high, or with above=True greater than low."""

    def parse(text: str) -> float | Bad:
        try:
            value = math.nan if "_" in text else float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high and not (above and value == low)):
            lower = f"greater than {low:g}" if above else f"at least {low:g}"
            limits = " and ".join([lower] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf))
            return Bad(f"got {text}, must be a number {limits}".rstrip())
        return value

    return parse


def either(name: str, otherwise: Callable[[str], object]) -> Callable[[str], object]:
    """An argparse type: a name that stands for a value, or what another type takes."""

    def parse(text: str) -> object:
        value = text if text == name else otherwise(text)
        return Bad(f"{value}, or {name}") if isinstance(value, Bad) else value

    return parse


def choice(*names: str) -> Callable[[str], str | Bad]:
    """An argparse type: one of the names."""
    return lambda text: text if text in names else Bad(f"got {text}, must be one of {', '.join(names)}")


def utf8_text(value: str) -> str | Bad:
    """An argparse type: text, not bytes that are none in UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return Bad(f"got {value}, must be text in UTF-8")
    return value


def printable(text: object) -> str:
    """text on one line with control characters escaped, so that a file name cannot drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def without_secrets(settings: dict) -> dict:
    """Settings for other people's eyes: *** for what looks like a token or a password."""
    return {name: "***" if _SECRET_NAME.search(name) and value else _hide(value) for name, value in settings.items()}


def _hide(value):
    if isinstance(value, list):
        return [_hide(item) for item in value]
    return _SECRET.sub("***", str(value)) if isinstance(value, str | Path) else value


def out_of_memory(error: Exception) -> str | None:
    """What a library said of memory that it could not have, in one line; None if the error is of another kind.

    A process that loads data hands its error on with the whole traceback as the message.
    """
    lines = [line.strip() for line in str(error).splitlines() if _NO_MEMORY.search(line)]
    if lines and isinstance(error, RuntimeError | MemoryError | OSError):
        return lines[-1][:200]
    return "MemoryError" if isinstance(error, MemoryError) else None


def output_problems(output_dir: Path, data_dir: Path | None = None) -> Iterable[str]:
    """Problems of an output folder that can be known at once: a file, read-only, or in the data."""
    existing = next(path for path in (output_dir.absolute(), *output_dir.absolute().parents) if path.exists())
    if not existing.is_dir():
        yield f"--output_dir: {existing} is a file, choose a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"--output_dir: {existing} cannot be written to, choose another folder"
    if data_dir is not None and data_dir.resolve() in (output_dir.resolve(), *output_dir.resolve().parents):
        yield f"--output_dir: {output_dir} lies in the data folder, choose another one"


def versions() -> dict[str, str]:
    """Of what decides the numbers, for the notes beside a result."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers")} | {"python": sys.version.split()[0]}


def resume_command(run_dir: Path) -> str:
    """This command, so that it continues the run in run_dir."""
    words = sys.argv if {"auto", "latest"} & set(sys.argv) else [*sys.argv, "--resume", str(run_dir)]
    return f"{'torchrun ...' if 'WORLD_SIZE' in os.environ else 'python'} {shlex.join(words)}"


class LostOutput(io.FileIO):
    """Standard output or error: what cannot be written, because the terminal or the reader of a pipe is gone, is lost.

    Ctrl-C in `train... | tee log` ends tee first, and a training must not fail for it before it has saved.
    """

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def forgiving(stream: io.TextIOBase) -> io.TextIOBase:
    """Standard output or error, on LostOutput; a stream that is something else, as it is."""
    if stream not in (sys.__stdout__, sys.__stderr__) or stream is None:
        return stream
    raw = LostOutput(stream.fileno(), "w", closefd=False)
    lines = stream.line_buffering or stream.write_through
    # A name that the terminal's encoding cannot show is shown with escapes.
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=lines)


def run(main: Callable[[], object]) -> None:
    """Run a script's main and leave with the status it deserves. `--debug` among the arguments shows tracebacks."""
    # transformers announces at import that an image processor lacks torchvision, which no script here uses.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # How long a thread of torch waits busily for the next piece of work before it sleeps. By default for milliseconds:
    # where another program wants the core too, a training step on two cores then took 14 s, with this 2.2 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large tensors in large pages: 4 % of a step on a CPU
    debug = "--debug" in sys.argv
    sys.stdout, sys.stderr = forgiving(sys.stdout), forgiving(sys.stderr)
    try:
        main()
    except Stopped as stopped:
        sys.exit(stopped.exit_status)
    except UserError as error:
        if debug:
            raise
        sys.stdout.flush()  # in a file that takes both, the error comes last
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(error.exit_status)
    except (OSError, RuntimeError, MemoryError) as error:
        if not debug and (reason := out_of_memory(error)):
            print(
                f"error: out of memory ({printable(reason)}); free some, or ask for something smaller", file=sys.stderr
            )
            sys.exit(2)
        if debug or getattr(error, "errno", None) not in THE_DISKS_FAULT:
            raise
        sys.stdout.flush()
        print(f"error: {printable(error)}; choose another path, or make room", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
