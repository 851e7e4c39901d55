"""Which models answer which questions: zero-shot and 3-shot base, and the tuned model in four wordings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medqa.errors import RecordError
from medqa.model import BaseModel
from medqa.prediction import Prediction
from medqa.prompt import TRAINING_WORDING, WORDINGS, pick_exemplars, wording_fingerprint
from medqa.questions import Question, QuestionSet, load_search_questions
from medqa.record import TrialIdentity
from medqa.scoring import score_questions

EXEMPLARS = 3
EXEMPLAR_SEED = 42
"""Fixed, so that the 3-shot number does not depend on which trial won."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What each model says to the same test questions, in their order."""

    questions: tuple[Question, ...]
    exemplars: tuple[Question, ...]
    zero_shot: tuple[Prediction, ...]
    few_shot: tuple[Prediction, ...]
    fine_tuned: tuple[Prediction, ...]
    wordings: dict[str, tuple[Prediction, ...]]
    """Wording's name to the tuned model's predictions; the training wording's are `fine_tuned`."""
    seconds: float


def load_same_questions(identity: TrialIdentity) -> QuestionSet:
    """Load the questions that the trial was trained on.

    Raises:
        RecordError: when the rows or the prompt are not those of the trial.
    """
    questions = load_search_questions(identity.task.data, identity.task.data_revision)
    _require_same("questions", f"data {identity.task.data!r}", identity.data_fingerprint, questions.fingerprint)
    _require_same("prompt", "medqa/prompt.py", identity.prompt_fingerprint, wording_fingerprint())
    return questions


def require_same_base(identity: TrialIdentity, base: BaseModel) -> None:
    """Raise RecordError when the base model is not the one that the trial was trained on."""
    _require_same("base model", f"model {identity.task.model!r}", identity.base_fingerprint, base.fingerprint)


def _require_same(what: str, where: str, recorded: str, loaded: str) -> None:
    if recorded != loaded:
        raise RecordError(
            f"the {what} changed since the trial was trained ({where}: recorded {recorded[:12]}, now {loaded[:12]}): "
            "restore what it was, or search again"
        )


def evaluate(
    base: BaseModel,
    adapter: Path,
    train: tuple[Question, ...],
    test: tuple[Question, ...],
    say: Callable[[str], None] = print,
) -> Evaluation:
    """Score every model on all test questions by letter probabilities; one forward pass a question each."""
    start = time.monotonic()
    exemplars = pick_exemplars(train, EXEMPLARS, EXEMPLAR_SEED)
    say(f"zero-shot base: {len(test)} questions")
    zero_shot = score_questions(base.model, base.encoder, test).predictions
    say(f"{EXEMPLARS}-shot base: {len(test)} questions")
    few_shot = score_questions(base.model, base.encoder, test, exemplars=exemplars).predictions
    wordings: dict[str, tuple[Prediction, ...]] = {}
    with base.adapter_from(adapter) as model:
        for wording in WORDINGS:
            say(f"tuned model, wording {wording!r}: {len(test)} questions")
            wordings[wording] = score_questions(model, base.encoder, test, wording=wording).predictions
    return Evaluation(
        questions=test,
        exemplars=exemplars,
        zero_shot=zero_shot,
        few_shot=few_shot,
        fine_tuned=wordings[TRAINING_WORDING],
        wordings=wordings,
        seconds=time.monotonic() - start,
    )
