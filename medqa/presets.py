"""The six preset configurations: the seed points of every search."""

from __future__ import annotations

import dataclasses

from medqa.config import TrialConfig
from medqa.errors import ConfigError

BASELINE = TrialConfig()
"""The first preset: what the others, and a person's own seed points, are written as changes of."""

PRESETS: dict[str, TrialConfig] = {
    "config_1_baseline": BASELINE,
    "config_2_low_rank": TrialConfig(lora_rank=8, lora_alpha=16),
    "config_3_high_rank": TrialConfig(lora_rank=64, lora_alpha=128, learning_rate=1e-4),
    "config_4_low_lr": TrialConfig(learning_rate=5e-5, num_train_epochs=3.0),
    "config_5_longer_training": TrialConfig(num_train_epochs=3.0),
    "config_6_aggressive": TrialConfig(lora_rank=32, lora_alpha=64, learning_rate=3e-4, lora_dropout=0.10),
}
"""Name to configuration, in the order in which a search runs them."""


def get_preset(name: str) -> TrialConfig:
    """Return the preset of this name; ConfigError names the known ones."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}: the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def scale_learning_rate(config: TrialConfig, factor: float) -> TrialConfig:
    """Return `config` with its learning rate multiplied by `factor`; nothing else changes."""
    return dataclasses.replace(config, learning_rate=config.learning_rate * factor)
