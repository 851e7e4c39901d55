"""Files written while the GPU computes: what they hold must not change until they are there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch


@contextlib.contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread while what stands inside goes on, and wait for its end; what it raises is raised there.

    On a GPU it reads tensors as they are at the start, on a stream of its own: else each copy to the host would wait
    for all that was asked of the GPU before. Tensors that it reads must not be changed inside.
    """
    stream = torch.cuda.Stream() if torch.cuda.is_available() else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream())

    def on_stream() -> None:
        with torch.cuda.stream(stream):
            work()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="saving") as pool:
        done = pool.submit(on_stream)
        yield
        done.result()
