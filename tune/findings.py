"""What `search.py --check` found, machine by machine, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medqa.model import AMPERE
from tune.node_look import Request, Sight, versions_here

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    subject: str
    place: str
    """The machine."""
    words: str
    is_fault: bool = False


def table(findings: Sequence[Finding]) -> str:
    """Return the findings in aligned columns, and what follows from them."""
    widths = [
        max(len(text) for text in column) for column in zip(*((f.subject, f.place) for f in findings), strict=True)
    ]
    lines = [
        f"{'FAULT' if row.is_fault else 'ok':5}  {row.subject:{widths[0]}}  {row.place:{widths[1]}}  {row.words}"
        for row in findings
    ]
    faults = sum(row.is_fault for row in findings)
    if not faults:
        return "\n".join((*lines, "", "No fault: the same command without --check runs the search."))
    return "\n".join((*lines, "", f"{'1 fault' if faults == 1 else f'{faults} faults'}: nothing was run."))


def node_findings(name: str, request: Request, sight: Sight | str, needed: int | None) -> Iterator[Finding]:
    """Yield the lines of one node.

    Args:
        name: What a person calls it.
        request: What it was asked.
        sight: What it said, or why it said nothing.
        needed: Free bytes that each GPU must have; None where that cannot be told.
    """
    if isinstance(sight, str):
        yield Finding("node", name, f"{sight}: look whether the project is set up there", is_fault=True)
        return
    others = _other_versions(sight.versions)
    yield Finding("versions", name, others or "as here", is_fault=bool(others))
    storage = sight.storage_problem
    yield Finding("results", name, storage or "written and read", is_fault=bool(storage))
    yield Finding("model", name, sight.model_problem or "can be had", is_fault=bool(sight.model_problem))
    if not request.gpus:
        return
    if len(sight.gpus) < request.gpus:
        reason = sight.gpu_problem or "look at nvidia-smi and the driver there"
        words = f"Ray counts {request.gpus}, torch sees {len(sight.gpus)}: {reason}"
        yield Finding("GPU", name, words, is_fault=True)
    for gpu in sight.gpus:
        has = f"{gpu.name}: {gpu.free_bytes / _GIB:.1f} of {gpu.total_bytes / _GIB:.1f} GiB free"
        if gpu.capability < AMPERE:
            yield Finding("GPU", name, f"{gpu.name} is too old: training needs bf16, from Ampere on", is_fault=True)
        elif needed is None:
            yield Finding("GPU", name, f"{has}; what a trial needs cannot be told from the model's config.json")
        elif gpu.free_bytes < needed:
            words = (
                f"{has}, the widest trial needs {needed / _GIB:.1f}: give GPUs with more, or hold lora_rank with --set"
            )
            yield Finding("GPU", name, words, is_fault=True)
        else:
            yield Finding("GPU", name, f"{has}, the widest trial needs {needed / _GIB:.1f}")


def _other_versions(there: dict[str, str]) -> str:
    here = versions_here()
    differ = [f"{name} {there.get(name)}, here {here[name]}" for name in here if there.get(name) != here[name]]
    return f"{'; '.join(differ)}: run `make setup` on both" if differ else ""
