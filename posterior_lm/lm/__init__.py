"""Language models: one protocol (`base`), tables, and anything transformers can load.

Start at `registry.load_model`. Only `transformers.py` and what it imports need torch.
"""
