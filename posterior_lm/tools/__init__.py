"""Tools: functions of a text so far that write what comes next.

A tool is called when the text of a latent ends with the tool's trigger, and what it returns is
spliced into the text. How that becomes tokens is in `posterior_lm.support.tooled`.
"""

from posterior_lm.tools.base import Tool, ToolSpec

__all__ = ["Tool", "ToolSpec"]
