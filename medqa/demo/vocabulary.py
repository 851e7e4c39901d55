"""The demo's tokenizer: one token for each phrase of the facts and each word of the prompts, bytes for all else."""

import re
import string
from collections.abc import Iterable
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from medqa.demo.facts import load_conditions
from medqa.demo.vignettes import ASKS, LETTERS, STEMS
from medqa.prompt import WORDINGS, render_prompt
from medqa.questions import Question

SPECIAL_TOKENS: Final = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]")

MAX_TOKENS: Final = 1024
"""Longest text the base model can read."""

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant messages are known') }}"
    "{% endif %}{% endfor %}"
)
"""Mistral's form: <s>[INST] user[/INST] assistant</s>."""


def build_tokenizer(other_texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build the tokenizer, with the words of `other_texts` in its vocabulary besides its own.

    A unigram model finds the split with the highest sum of scores: as each piece costs about the same, whole phrases
    win over their words and words over their characters. Spaces belong to the pieces and bytes stand for characters
    it does not hold, so no text is lost.
    """
    pieces = [*_phrases(), *_words([*_prompt_texts(), *other_texts]), *_option_starts()]
    vocabulary = [(token, 0.0) for token in SPECIAL_TOKENS]
    vocabulary += [(piece, -2.0) for piece in dict.fromkeys(pieces)]
    known = {piece for piece, _ in vocabulary}
    characters = [character for character in "▁\n" + string.printable[:94] if character not in known]
    vocabulary += [(character, -8.0) for character in characters]
    vocabulary += [(f"<0x{byte:02X}>", -12.0) for byte in range(256)]
    return _wrap(Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True)))


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never", split=False), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL_TOKENS.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["[INST]", "[/INST]"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def _phrases() -> list[str]:
    phrases = (phrase for condition in load_conditions() for phrase in condition.phrases())
    return ["▁" + phrase.replace(" ", "▁") for phrase in phrases]


def _prompt_texts() -> list[str]:
    sample = Question("", "", dict.fromkeys(LETTERS, ""), "A")
    asks = [ask for asks in ASKS.values() for ask in asks]
    return [*(render_prompt(sample, wording) for wording in WORDINGS), *STEMS, *asks, "and"]


def _words(texts: Iterable[str]) -> list[str]:
    words = sorted({word for text in texts for word in re.findall(r"[A-Za-z']+", text)})
    return [piece for word in words for piece in ("▁" + word, word)] + ["\n\n"]


def _option_starts() -> list[str]:
    return [piece for letter in (*LETTERS, "E") for piece in (f"\n{letter}.", "▁" + letter, letter)]
