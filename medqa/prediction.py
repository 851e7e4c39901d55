"""What a model says to questions; read without torch, which the driver of a search does not load."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says to one question."""

    id: str
    gold: str
    pred: str
    """The most probable of the question's option letters."""
    probabilities: dict[str, float]
    """Letter to probability among the question's letters; sums to 1."""
    letter_mass: float
    """Probability of those letters together, among the whole vocabulary."""
    gold_nll: float
    """Negative log-probability of the right letter among the whole vocabulary, in nats."""
    raw_output: str
    """Text of the most probable token of the whole vocabulary: what greedy generation would begin with."""

    @property
    def correct(self) -> bool:
        """Whether the most probable letter is the right one."""
        return self.pred == self.gold

    @property
    def confidence(self) -> float:
        """Probability of the most probable letter, among the question's letters."""
        return self.probabilities[self.pred]

    @property
    def extracted(self) -> bool:
        """Whether greedy generation begins with one of the question's letters."""
        return self.raw_output.strip() in self.probabilities


@dataclass(frozen=True, slots=True)
class Scores:
    """Predictions for a list of questions, in its order."""

    predictions: tuple[Prediction, ...]
    lm_loss: float | None
    """Mean negative log-likelihood per token of prompt and answer, in nats; None where not asked for."""

    @property
    def accuracy(self) -> float:
        """Share of right predictions, from 0 to 1."""
        return sum(prediction.correct for prediction in self.predictions) / len(self.predictions)

    @property
    def answer_nll(self) -> float:
        """Mean negative log-probability of the right letter, in nats."""
        return sum(prediction.gold_nll for prediction in self.predictions) / len(self.predictions)
