"""Posterior prediction: the distribution of what a query leaves out."""

from posterior_lm.predict.asking import predict, predict_rows
from posterior_lm.predict.prediction import Datum, Prediction, Predictions, Vote

__all__ = ["Datum", "Prediction", "Predictions", "Vote", "predict", "predict_rows"]
