"""The page: one self-contained HTML file that shows a program, its posterior, and how far to trust it."""

from __future__ import annotations

from posterior_lm.report.page import report

__all__ = ["report"]
