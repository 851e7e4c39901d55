"""Multiple-choice questions written from the table of facts: findings in, one of four phrases out."""

from random import Random
from typing import Final

from medqa.demo.facts import Condition, Kind, distractors
from medqa.questions import Question

LETTERS: Final = ("A", "B", "C", "D")

STEMS: Final = ("The findings are {findings}.", "A patient's record lists {findings}.", "Case notes: {findings}.")

ASKS: Final[dict[Kind, tuple[str, ...]]] = {
    "diagnosis": ("What is the most likely diagnosis?", "Which condition explains this?"),
    "cause": ("What is the underlying cause?", "What has most likely led to this?"),
    "test": ("Which test is most useful?", "Which test should be done?"),
    "treatment": ("What is the best treatment?", "How should this be treated?"),
}


def join_phrases(phrases: list[str]) -> str:
    """Return 'a, b and c'."""
    *head, last = phrases
    return f"{', '.join(head)} and {last}" if head else last


def write_case(condition: Condition, kind: Kind, random: Random) -> str:
    """Return a case with two or three of the condition's findings, and what is asked of it."""
    findings = random.sample(condition.findings, random.choice((2, 3)))
    return f"{random.choice(STEMS).format(findings=join_phrases(findings))} {random.choice(ASKS[kind])}"


def place_answer(question: str, right: str, wrong: list[str], letter: str) -> Question:
    """Return the question with the right option under this letter."""
    place = LETTERS.index(letter)
    options = dict(zip(LETTERS, (*wrong[:place], right, *wrong[place:]), strict=True))
    return Question(id="", question=question, options=options, answer=letter)


def write_vignette(condition: Condition, kind: Kind, letter: str, random: Random) -> Question:
    """Write one case about the condition whose answer stands under this letter."""
    wrong = random.sample(distractors(condition, kind), len(LETTERS) - 1)
    return place_answer(write_case(condition, kind, random), condition.answer(kind), wrong, letter)
