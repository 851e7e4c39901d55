"""Reads a person's own seed points from a YAML or JSON file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from medqa.errors import ConfigError
from medqa.presets import PRESETS

SeedFields = dict[str, dict[str, Any]]
"""Seed point name to TrialConfig field to value, as written; fields left out are the baseline preset's."""

_NUMBERED = r"trial_\d+"
"""Names of trials that the sampler proposes."""


class _Loader(yaml.SafeLoader):
    """YAML in which 2e-4 is a number, as people and JSON write it, and no name stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; ConfigError when a key is repeated."""
        _unique([(key.value, None) for key, _ in node.value])
        return dict(super().construct_mapping(node, deep=deep))


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_seeds(file: Path) -> SeedFields:
    """Return the seed points of a file, by name, in their order.

    Whether the values are allowed is the space's to say.

    Raises:
        ConfigError: when the file cannot be read, is no mapping of names to fields, or a name cannot be a trial's.
    """
    try:
        text = file.read_text()
        content = _parse(text, is_json=file.suffix == ".json")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--seeds {file} cannot be read: {_first_words(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"--seeds {file}: {error}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"--seeds {file}: write names of seed points, each with fields of TrialConfig below it")
    for name, fields in content.items():
        _check(file, name, fields)
    return content


def _parse(text: str, is_json: bool) -> Any:
    if is_json:
        return json.loads(text, object_pairs_hook=_unique)
    return yaml.load(text, Loader=_Loader)


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    names = [name for name, _ in pairs]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"{repeated[0]!r} stands there twice: give each name once")
    return dict(pairs)


def _check(file: Path, name: Any, fields: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ConfigError(f"--seeds {file}: the name {name!r}: use letters, digits, '.', '_' and '-'")
    if name in PRESETS or re.fullmatch(_NUMBERED, name):
        raise ConfigError(f"--seeds {file}: the name {name!r} is a preset's or a numbered trial's: choose another")
    if not isinstance(fields, dict) or not fields:
        raise ConfigError(f"--seeds {file}: seed point {name} is {fields!r}: give fields of TrialConfig with values")
    for field in fields:
        if not isinstance(field, str):
            raise ConfigError(f"--seeds {file}: seed point {name}: field {field!r}: give names of TrialConfig's fields")


def _first_words(error: Exception) -> str:
    """Return what is wrong and where, on one line."""
    if isinstance(error, OSError):
        return error.strerror or "no such file"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return str(error).splitlines()[0]
