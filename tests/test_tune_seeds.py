"""A file of seed points: YAML and JSON mean the same, and what is wrong is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from medqa.errors import ConfigError
from tune.seeds import read_seeds


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_yaml_and_json_give_the_same_seed_points_in_their_order(tmp_path: Path) -> None:
    as_yaml = "small:\n  lora_rank: 8\n  learning_rate: 2e-4\nlarge:\n  lora_rank: 64\n  use_rslora: true\n"
    as_json = '{"small": {"lora_rank": 8, "learning_rate": 2e-4}, "large": {"lora_rank": 64, "use_rslora": true}}'
    expected = {"small": {"lora_rank": 8, "learning_rate": 0.0002}, "large": {"lora_rank": 64, "use_rslora": True}}
    for file in (written(tmp_path, "a.yaml", as_yaml), written(tmp_path, "a.json", as_json)):
        assert read_seeds(file) == expected
        assert list(read_seeds(file)) == ["small", "large"]


@pytest.mark.parametrize("number", ["2e-4", "2E-4", "2.0e-4", "2.e-4", ".2e-3", "+2e-4", "0.0002"])
def test_a_number_is_a_number_however_it_is_written(number: str, tmp_path: Path) -> None:
    file = written(tmp_path, "a.yaml", f"a: {{learning_rate: {number}}}")
    assert read_seeds(file)["a"]["learning_rate"] == 0.0002


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "", "write names of seed points"),
        ("a.yaml", "- lora_rank: 8", "write names of seed points"),
        ("a.yaml", "a:", "seed point a is None"),
        ("a.yaml", "a: 8", "seed point a is 8"),
        ("a.yaml", "a: {1: 8}", "seed point a: field 1"),
        ("a.yaml", "a: {lora_rank: 8}\na: {lora_rank: 4}", "'a' stands there twice"),
        ("a.yaml", "a: {lora_rank: 8, lora_rank: 4}", "'lora_rank' stands there twice"),
        ("a.json", '{"a": {"lora_rank": 8}, "a": {"lora_rank": 4}}', "'a' stands there twice"),
        ("a.yaml", "a: [", "cannot be read.* in line"),
        ("a.json", "{", "cannot be read: .*line 1"),
        ("a.yaml", "a: !!python/object:os.system {}", "cannot be read"),
        ("a.yaml", "a/b: {lora_rank: 8}", "the name 'a/b'"),
        ("a.yaml", "8: {lora_rank: 8}", "the name 8"),
        ("a.yaml", "trial_007: {lora_rank: 8}", "'trial_007' is a preset's or a numbered trial's"),
        ("a.yaml", "config_1_baseline: {lora_rank: 8}", "is a preset's"),
    ],
)
def test_what_is_no_file_of_seed_points_is_refused_in_one_line(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        read_seeds(written(tmp_path, name, text))
    assert "\n" not in str(raised.value)
    assert name in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml cannot be read: No such file"):
        read_seeds(tmp_path / "nowhere.yaml")
