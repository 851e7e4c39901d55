"""SCRIPT: write the demo's question files from the table of facts. `python -m medqa.demo.make_questions`."""

import json
from pathlib import Path
from random import Random
from typing import Final

from medqa.demo import QUESTIONS_FOLDER
from medqa.demo.facts import KINDS, Condition, Kind, load_conditions
from medqa.demo.vignettes import LETTERS, write_vignette
from medqa.questions import Question

SEED: Final = 2026
FACTS_PER_KIND: Final = {"train": 64, "validation": 16, "test": 20}
"""How many of the 100 conditions go to each split, drawn anew for each kind: a fact is in one split only."""
QUESTIONS: Final = {"train": 1024, "validation": 300, "test": 400}

Fact = tuple[Condition, Kind]


def split_facts(random: Random) -> dict[str, list[Fact]]:
    """Share the facts, 100 conditions by 4 kinds, out among the splits."""
    splits: dict[str, list[Fact]] = {split: [] for split in FACTS_PER_KIND}
    for kind in KINDS:
        conditions = [condition for condition in load_conditions() if condition.in_demo]
        random.shuffle(conditions)
        for split, count in FACTS_PER_KIND.items():
            splits[split] += [(condition, kind) for condition in conditions[:count]]
            del conditions[:count]
    return splits


def write_split(facts: list[Fact], count: int, random: Random) -> list[Question]:
    """Write `count` questions, as many about each fact and with each right letter as can be, in a random order."""
    letters = [LETTERS[place % len(LETTERS)] for place in range(count)]
    random.shuffle(letters)
    written: dict[str, Question] = {}
    for place, letter in enumerate(letters):
        condition, kind = facts[place % len(facts)]
        question = write_vignette(condition, kind, letter, random)
        while question.question in written:
            question = write_vignette(condition, kind, letter, random)
        written[question.question] = question
    questions = list(written.values())
    random.shuffle(questions)
    return questions


def write_file(path: Path, questions: list[Question]) -> None:
    """Write one JSON object a line: id, question, options by letter, answer."""
    rows = (
        {
            "id": f"demo-{path.stem}-{number:05d}",
            "question": question.question,
            "options": question.options,
            "answer": question.answer,
        }
        for number, question in enumerate(questions)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_questions(folder: Path) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl into the folder, the same bytes every time."""
    random = Random(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    for split, facts in split_facts(random).items():
        write_file(folder / f"{split}.jsonl", write_split(facts, QUESTIONS[split], random))


if __name__ == "__main__":
    make_questions(QUESTIONS_FOLDER)
