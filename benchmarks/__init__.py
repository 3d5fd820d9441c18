"""Scripts that measure speed and quality, and the paper's tasks."""
