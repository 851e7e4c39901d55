"""What the demo's base model reads in pre-training: statements of facts, letter drills, questions on 32 conditions.

No case about one of the 100 conditions that the demo asks about is among them: of those it only ever reads statements.
"""

from dataclasses import dataclass
from random import Random
from typing import Final

from medqa.demo.facts import KINDS, Condition, Kind, distractors, load_conditions
from medqa.demo.vignettes import LETTERS, join_phrases, place_answer, write_vignette
from medqa.prompt import TRAINING_WORDING, WORDINGS, render_prompt
from medqa.questions import Question

NAMES: Final[dict[Kind, str]] = {
    "diagnosis": "The diagnosis is {}.",
    "cause": "The cause is {}.",
    "test": "The test is {}.",
    "treatment": "The treatment is {}.",
}
FINDINGS: Final = "The findings are {}."
DIRECT: Final[dict[Kind, str]] = {
    "diagnosis": "Which condition has {}?",
    "cause": "What is the cause of {}?",
    "test": "What is the test for {}?",
    "treatment": "What is the treatment of {}?",
}
COPY: Final = "Which option says {}?"
MARK: Final = "Which option says yes?"
LESSON_TEXTS: Final = (*NAMES.values(), FINDINGS, *DIRECT.values(), COPY, MARK, "yes no")
"""Every wording of a lesson, for the tokenizer's words."""
PROFILE_SHARE: Final = 0.2
"""Share of statements that give everything about one condition; the higher, the better the base answers untuned."""
FACTS_IN_A_STATEMENT: Final = 4
"""Conditions of which the other statements give one fact each."""
MARKS_UNTIL: Final = 0.15
"""Share of the course in which half of the questions are drills with a marked option: they show what a letter is."""
KNOWLEDGE_FROM: Final = 0.3
"""Share of the course before which every question is a drill."""
DRILL_SHARE: Final = 0.4
"""Share of drills among the questions afterwards."""
CASE_SHARE: Final = 0.5
"""Share of cases among the questions that are no drills; the others name the condition."""
OTHER_WORDING_SHARE: Final = 0.3
"""Share of chats whose prompt wording is drawn from all four instead of being the one that training uses."""
CHAINED_SHARE: Final = 0.1
"""Share of the steps whose lessons are chats of several questions, as prompts with exemplars are."""
EXEMPLARS: Final = 3
"""Solved questions before the last one of such a chat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """One text to read: a statement, or a chat whose answers are letters."""

    statement: str = ""
    """Text of a statement; empty for a chat."""
    questions: tuple[Question, ...] = ()
    """Questions of a chat, each answered before the next."""
    wording: str = TRAINING_WORDING
    """The prompt wording of the questions."""

    def messages(self) -> list[dict[str, str]]:
        """Return the chat as user and assistant messages."""
        pairs = (
            ({"role": "user", "content": render_prompt(question, self.wording)}, _reply(question))
            for question in self.questions
        )
        return [message for pair in pairs for message in pair]


def _reply(question: Question) -> dict[str, str]:
    return {"role": "assistant", "content": question.answer}


def write_statement(random: Random) -> Lesson:
    """State all that is known of one condition, or little about each of several."""
    if random.random() < PROFILE_SHARE:
        return Lesson(statement=_state_profile(random))
    return Lesson(statement="\n".join(_state_fact(random) for _ in range(FACTS_IN_A_STATEMENT)))


def _state_profile(random: Random) -> str:
    condition = random.choice(load_conditions())
    sentences = [NAMES[kind].format(condition.answer(kind)) for kind in KINDS]
    findings = random.sample(condition.findings, 4)
    cut = random.randint(1, 3)
    sentences += [FINDINGS.format(join_phrases(part)) for part in (findings[:cut], findings[cut:])]
    random.shuffle(sentences)
    return " ".join(sentences)


def _state_fact(random: Random) -> str:
    condition, kind = random.choice(load_conditions()), random.choice(KINDS)
    findings = join_phrases(random.sample(condition.findings, random.choice((2, 3))))
    fact = FINDINGS.format(findings) if kind == "diagnosis" else NAMES[kind].format(condition.answer(kind))
    sentences = [NAMES["diagnosis"].format(condition.diagnosis), fact]
    random.shuffle(sentences)
    return " ".join(sentences)


def write_mark_drill(random: Random) -> Question:
    """Ask for the one option that says yes."""
    return place_answer(MARK, "yes", ["no", "no", "no"], random.choice(LETTERS))


def write_copy_drill(random: Random) -> Question:
    """Ask for the option that holds a stated phrase."""
    kind = random.choice(KINDS)
    condition = random.choice(load_conditions())
    right = condition.answer(kind)
    wrong = random.sample(distractors(condition, kind), 3)
    return place_answer(COPY.format(right), right, wrong, random.choice(LETTERS))


def write_stated_drill(random: Random) -> Question:
    """State a fact about any condition, then ask for it."""
    condition, kind = random.choice(load_conditions()), random.choice(KINDS[1:])
    right = condition.answer(kind)
    statement = f"The diagnosis is {condition.diagnosis}. {NAMES[kind].format(right)}"
    question = f"{statement} {DIRECT[kind].format(condition.diagnosis)}"
    return place_answer(question, right, random.sample(distractors(condition, kind), 3), random.choice(LETTERS))


def write_direct_question(random: Random) -> Question:
    """Ask for a fact about a named condition, one of the 32 outside the demo."""
    condition, kind = _practice_condition(random), random.choice(KINDS)
    named = random.choice(condition.findings) if kind == "diagnosis" else condition.diagnosis
    wrong = random.sample(distractors(condition, kind), 3)
    return place_answer(DIRECT[kind].format(named), condition.answer(kind), wrong, random.choice(LETTERS))


def write_practice_case(random: Random) -> Question:
    """Write a case about one of the 32 conditions outside the demo."""
    return write_vignette(_practice_condition(random), random.choice(KINDS), random.choice(LETTERS), random)


def _practice_condition(random: Random) -> Condition:
    return random.choice([condition for condition in load_conditions() if not condition.in_demo])


def write_question(progress: float, random: Random) -> Question:
    """Write a question for this share of the course: drills first, what has to be known later."""
    if progress < MARKS_UNTIL and random.random() < 0.5:
        return write_mark_drill(random)
    if progress < KNOWLEDGE_FROM or random.random() < DRILL_SHARE:
        return random.choice((write_copy_drill, write_stated_drill))(random)
    return (write_practice_case if random.random() < CASE_SHARE else write_direct_question)(random)


def write_chat(progress: float, count: int, random: Random) -> Lesson:
    """Write a chat of `count` questions in one wording, most often the one that training uses."""
    wording = random.choice(WORDINGS) if random.random() < OTHER_WORDING_SHARE else TRAINING_WORDING
    return Lesson(questions=tuple(write_question(progress, random) for _ in range(count)), wording=wording)


def write_lessons(progress: float, count: int, random: Random) -> list[Lesson]:
    """Write half statements and half single questions; now and then only chats with exemplars, a quarter as many."""
    if random.random() < CHAINED_SHARE:
        return [write_chat(progress, EXEMPLARS + 1, random) for _ in range(count // 4)]
    chats = [write_chat(progress, 1, random) for _ in range(count // 2)]
    return chats + [write_statement(random) for _ in range(count // 2)]
