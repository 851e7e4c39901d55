"""The embedded demo: a small real base model and a small real question set, so that everything runs without a GPU."""

from pathlib import Path
from typing import Final

BASE_FOLDER: Final[Path] = Path(__file__).parent / "base"
"""Folder of the base model and its tokenizer, as `from_pretrained` reads them."""

QUESTIONS_FOLDER: Final[Path] = Path(__file__).parent / "questions"
"""Folder of train.jsonl, validation.jsonl and test.jsonl."""

LEARNING_RATE_FACTOR: Final[float] = 1.0
"""What a preset's learning rate is multiplied by in the demo; everything else of the preset stays.

1 keeps the presets as they are: so tuned, they spread from 71 to 94 % of the test questions, in the same order from
seed to seed. At 3 or 5 most of them end above 91 % and within a few points of each other.
"""
