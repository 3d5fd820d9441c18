"""The packaged model `tiny`: a 0.9 M-parameter Llama trained on a documented world.

The world (`training/tiny/world` in a checkout) is a generative model of short
English documents whose every random choice has a known probability, so the entropy
rate and the true conditionals of what the model learned are known exactly.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
