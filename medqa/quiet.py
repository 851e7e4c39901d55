"""Library chatter that a user can do nothing about, silenced with the reason of each."""

from __future__ import annotations

import logging
import warnings


def silence_libraries() -> None:
    """Silence known, harmless messages in this process; errors and unknown warnings still show."""
    # bitsandbytes looks for optional compiled CPU kernels and works without them
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # "The tokenizer has new PAD/BOS/EOS tokens": training pads with a token that is never trained
    logging.getLogger("transformers").setLevel(logging.ERROR)
    for message in (
        # the same step without paging: a CPU has no GPU memory to page from
        "Paged optimizers are not supported on CPU",
        # transformers and TRL still call each other by the old names
        r".*gradient_checkpointing.* is deprecated",
        # torch's note on reading a scalar of a tensor with gradient, inside bitsandbytes
        "Converting a tensor with requires_grad=True to a scalar",
    ):
        warnings.filterwarnings("ignore", message=message)
    _hide_progress_bars()


def _hide_progress_bars() -> None:
    """Hide bars for loading weights and mapping rows: in a worker's log they are noise."""
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bar()
