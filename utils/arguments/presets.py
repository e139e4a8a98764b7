"""Settings from files: the presets in configs/, and files of one's own, under the flags of the command line.

A file is TOML with a value for each flag that it sets, by the flag's name without dashes: num_frames = 8.
"""

import argparse
import difflib
import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from utils.cli import Bad, Parser

CONFIGS = Path(__file__).parents[2] / "configs"


def add_preset_args(parser: argparse.ArgumentParser, folder: str, default: str) -> None:
    """--preset, one of configs/<folder>/*.toml, and --config; they take effect through `parse_with_presets`."""
    names = sorted(path.stem for path in (CONFIGS / folder).glob("*.toml"))
    parser.add_argument(
        "--preset", choices=names, default=default, help=f"settings to start from, a file of configs/{folder}/"
    )
    parser.add_argument("--config", type=Path, default=None, help="your own file of settings, over those of the preset")
    parser.set_defaults(preset_folder=CONFIGS / folder)


def parse_with_presets(
    parser: Parser, argv: list[str] | None = None, instead: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """The parsed arguments: defaults, over them the preset, then --config, then the flags.

    instead: {setting: the setting that it makes void}, where it is given in a layer above. A file that cannot be read,
    and in it an unknown name or a value of the wrong kind, is refused in one line each.
    """
    argv, instead = sys.argv[1:] if argv is None else list(argv), instead or {}
    known = parser.parse_known_args(argv)[0]
    layers = [known.preset_folder / f"{known.preset}.toml"] + [known.config] * (known.config is not None)
    settings: dict[str, object] = {}
    for path in layers:
        layer = read_settings(path, parser)
        for setting, void in instead.items():
            if setting in layer and void not in layer:
                settings.pop(void, None)
        settings |= layer
    given = {word.split("=")[0] for word in argv}
    for action in parser._actions:
        if action.dest in instead and given & set(action.option_strings):
            settings.pop(instead[action.dest], None)
    parser.set_defaults(**settings)
    args = parser.parse_args(argv)
    del args.preset_folder
    return args


def read_settings(path: Path, parser: Parser) -> dict[str, object]:
    """{setting: value} of a TOML file, each as its flag would have it; what is wrong ends the program, a line each."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        parser.refuse([f"--config: {path} cannot be read ({reason})"])
    except tomllib.TOMLDecodeError as error:
        parser.refuse([f"--config: {path} is not TOML ({error}); write lines such as num_frames = 8"])
    actions = {action.dest: action for action in parser._actions if not _no_setting(action)}
    settings, problems = {}, []
    for name, value in values.items():
        if name not in actions:
            problems.append(f"--config: {path} sets {name}, which is no setting{_nearest(name, actions, parser)}")
            continue
        setting = _as_flag(value, [action for action in parser._actions if action.dest == name])
        if isinstance(setting, Bad):
            problems.append(f"--config: {path} sets {name}: {setting}")
        settings[name] = setting
    if problems:
        parser.refuse(problems)
    return settings


def _no_setting(action: argparse.Action) -> bool:
    """Whether a flag makes no sense in a file: help, and what says where settings come from."""
    return not action.option_strings or action.dest in ("help", "preset", "config")


def _nearest(name: str, actions: Mapping[str, argparse.Action], parser: Parser) -> str:
    """The end of a message about an unknown setting: the name that was meant, as far as that can be guessed."""
    by_flag = {flag.lstrip("-"): action.dest for action in parser._actions for flag in action.option_strings}
    names = {**by_flag, **{dest: dest for dest in actions}}
    names = {spelling: dest for spelling, dest in names.items() if dest in actions}
    close = difflib.get_close_matches(name.replace("-", "_"), names, n=1)
    return f", did you mean {names[close[0]]}?" if close else "; --help lists them"


def _as_flag(value: object, actions: list[argparse.Action]) -> object:
    """A TOML value as one of the flags with its name would have it, or Bad with what was expected."""
    action = actions[0]
    if action.nargs == 0 and isinstance(action.const if action.const is not None else True, bool):
        return value if isinstance(value, bool) else Bad(f"got {json.dumps(value, default=str)}, must be true or false")
    several = action.nargs in ("+", "*") or isinstance(action.nargs, int)
    if isinstance(action.nargs, int) and not (isinstance(value, list) and len(value) == action.nargs):
        return Bad(f"got {json.dumps(value, default=str)}, must be a list of {action.nargs}")
    if several != isinstance(value, list):
        return Bad(f"got {json.dumps(value, default=str)}, must be {'a list' if several else 'one value'}")
    converted = [_converted(item, action) for item in (value if several else [value])]
    if bad := next((item for item in converted if isinstance(item, Bad)), None):
        return bad
    return converted if several else converted[0]


def _converted(value: object, action: argparse.Action) -> object:
    """One value through the type of its flag; numbers must be numbers in the file too, and texts texts."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return Bad(
            f"got {json.dumps(value, default=str)}, must be {'a list of ' if action.nargs else ''}a number or text"
        )
    converted = (action.type or str)(str(value))
    if isinstance(converted, Bad):
        return converted
    if isinstance(converted, int | float) != isinstance(value, int | float):
        kind = "a number" if isinstance(converted, int | float) else "text in quotes"
        return Bad(f"got {json.dumps(value)}, must be {kind}")
    return converted


def as_toml(settings: Mapping[str, object]) -> str:
    """Settings as a file for --config: a line each, those that are not set left out."""
    lines = (f"{name} = {_toml_value(value)}" for name, value in sorted(settings.items()) if value is not None)
    return "".join(f"{line}\n" for line in lines)


def _toml_value(value: object) -> str:
    # A JSON text, number, truth value or list of them is one of TOML too.
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
