"""What an evaluation holds: every model's answers to the same questions; and that the search had the same of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analysis.leaks import NearDuplicate
from analysis.positions import Orders
from medqa.prediction import Prediction
from medqa.prompt import wording_fingerprint
from medqa.questions import Question, QuestionSet, load_search_questions
from medqa.record import TrialIdentity, require_same

if TYPE_CHECKING:
    from medqa.model import BaseModel  # brings torch, which tables made from the record do without

EXEMPLARS = 3
EXEMPLAR_SEED = 42
"""Fixed, so that the 3-shot number does not depend on which trial won."""
ZERO_SHOT, FEW_SHOT, FINE_TUNED, ENSEMBLE = "zero_shot", "few_shot", "fine_tuned", "ensemble"
BEST_PRESET = "best_preset"
"""The search's best preset beside a winner that is none: what the search itself was worth, on the test split."""
COUNTERPART = "counterpart"
"""The best trial trained the other way about shuffled options: only its orders of the options are compared."""
ASKED_ORDERS, ASKED_TEXTS = (ZERO_SHOT, FINE_TUNED, COUNTERPART), (ZERO_SHOT, FINE_TUNED)
"""Models that are asked in every order of the options, and those that write their answer too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What each model says to the same questions, in their order."""

    questions: tuple[Question, ...]
    exemplars: tuple[Question, ...]
    zero_shot: tuple[Prediction, ...]
    few_shot: tuple[Prediction, ...]
    fine_tuned: tuple[Prediction, ...]
    wordings: Mapping[str, tuple[Prediction, ...]]
    """Wording's name to the tuned model's predictions; the training wording's are `fine_tuned`."""
    seconds: float
    ensemble: tuple[Prediction, ...] = ()
    """Mean of the best adapters; empty where none was asked for."""
    best_preset: tuple[Prediction, ...] = ()
    """Empty where what is evaluated is a preset itself, or no preset's adapter is kept."""
    orders: Mapping[str, Orders] = field(default_factory=dict)
    """Model to its predictions over the cyclic orders of the options."""
    texts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Model to question's id to generated text."""
    validation: Mapping[str, tuple[Prediction, ...]] = field(default_factory=dict)
    """Model to its predictions on the validation questions, for the temperature."""
    near_duplicates: tuple[NearDuplicate, ...] = ()
    """Of train questions, among these."""
    validation_near_duplicates: tuple[NearDuplicate, ...] = ()
    """Of train questions, among the validation questions."""

    @property
    def models(self) -> dict[str, Sequence[Prediction]]:
        """The compared models by name: the best preset and the ensemble are among them where they are there."""
        always = {ZERO_SHOT: self.zero_shot, FEW_SHOT: self.few_shot, FINE_TUNED: self.fine_tuned}
        others = {BEST_PRESET: self.best_preset, ENSEMBLE: self.ensemble}
        return {**always, **{name: predictions for name, predictions in others.items() if predictions}}


def load_same_questions(identity: TrialIdentity) -> QuestionSet:
    """Load the questions that the trial was trained on.

    Raises:
        RecordError: when the rows or the prompt are not those of the trial.
    """
    questions = load_search_questions(identity.task.data, identity.task.data_revision)
    require_same("questions", f"data {identity.task.data!r}", identity.data_fingerprint, questions.fingerprint)
    _require_same_prompt(identity)
    return questions


def load_same_base(identity: TrialIdentity) -> BaseModel:
    """Load the base model that the trial was trained on.

    Raises:
        ModelError: when it cannot be had.
        RecordError: when its weights, its quantisation, its tokens or the prompt are not those of the trial.
    """
    from medqa.model import load_base

    _require_same_prompt(identity)
    base = load_base(identity.task)
    require_same("base model", f"model {identity.task.model!r}", identity.base_fingerprint, base.fingerprint)
    require_same_tokens(identity, base)
    return base


def require_same_tokens(identity: TrialIdentity, base: BaseModel) -> None:
    """Raise RecordError when chat template or tokenizer make other tokens of the prompt than in the trial."""
    now = base.encoder.fingerprint()
    require_same("chat template or tokenizer", f"model {identity.task.model!r}", identity.token_fingerprint, now)


def _require_same_prompt(identity: TrialIdentity) -> None:
    require_same("prompt", "medqa/prompt.py", identity.prompt_fingerprint, wording_fingerprint())
