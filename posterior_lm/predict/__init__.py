"""Posterior prediction: the distribution of what a query leaves out."""

from posterior_lm.predict.asking import predict
from posterior_lm.predict.prediction import Datum, Prediction, Vote

__all__ = ["Datum", "Prediction", "Vote", "predict"]
