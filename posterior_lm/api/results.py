"""What comes of a question that leaves more than a value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from posterior_lm.em.em import Trained
    from posterior_lm.em.rounds import Round
    from posterior_lm.query import Query


@frozen(eq=False)
class EmResult:
    """What came of EM: `query` is the program with the best round's model and guide, the rest is of `Trained`."""

    query: Query
    trained: Trained

    @property
    def folder(self) -> Path:
        return self.trained.folder

    @property
    def rounds(self) -> tuple[Round, ...]:
        return self.trained.rounds

    @property
    def best(self) -> int:
        """The number of the round that was kept."""
        return self.trained.best

    @property
    def stopped(self) -> str:
        """Why EM ended."""
        return self.trained.stopped

    @property
    def interrupted(self) -> bool:
        return self.trained.interrupted

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, and why."""
        return self.trained.notes

    def close(self) -> None:
        """Take the trained adapter out of the model's layers; `query` cannot be asked afterwards."""
        self.trained.close()
