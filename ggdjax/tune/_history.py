"""What tuning did: every decision with its score, and what it cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ggdjax._errors import expect_record
from ggdjax.quantization._record import DETAILS


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One visit to one feature map and its layers."""

    sweep: int
    """Counts from 0; even sweeps go backward, odd ones forward."""
    tensor: str
    change: str
    """What was changed: ``step × 1.19``, ``weights of conv1: F + 1``, …; empty where the present values won."""
    score: float
    """Mean score of the objective over the tuning images, after the decision."""
    loss: float
    """Mean loss that breaks ties, after the decision."""
    evaluations: int
    """Image and candidate pairs that were run for it."""
    float_passes: float
    """Its computation in passes of the whole network over the tuning images."""
    seconds: float = 0.0
    """Wall time; `History.to_dict` leaves it out, so that equal runs are equal files."""


@dataclass(frozen=True, kw_only=True)
class History:
    """The trajectory of one tuning run."""

    objective: str
    images: int
    start_score: float
    start_loss: float
    decisions: tuple[Decision, ...]
    candidates: int
    """Candidates per visit on average; each would be a pass of the whole network in a naive search."""
    finished: bool
    """False where the budget ended the search before nothing changed any more or the last sweep was done."""
    compile_seconds: float = 0.0
    """Not in `to_dict`, as the decisions' seconds."""

    @property
    def score(self) -> float:
        """The score at the end."""
        return self.decisions[-1].score if self.decisions else self.start_score

    @property
    def float_passes(self) -> float:
        """Computation spent, in passes of the whole network over the tuning images."""
        return sum(decision.float_passes for decision in self.decisions)

    @property
    def naive_float_passes(self) -> float:
        """What a search that runs the whole network on all images for every candidate would have spent."""
        return float(len(self.decisions) * self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON: all but times, which differ from run to run."""
        record = dataclasses.asdict(self)
        del record["compile_seconds"]
        for decision in record["decisions"]:
            del decision["seconds"]
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> History:
        """Undo `to_dict`; what it did not write is a `GgdjaxError`."""
        needed = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
        expect_record("record", record, needed)
        return cls(**{**record, "decisions": tuple(Decision(**decision) for decision in record["decisions"])})


DETAILS["History"] = History
