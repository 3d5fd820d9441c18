"""The paper's five tasks as one table: tasks, methods, cells, what they add up to."""
