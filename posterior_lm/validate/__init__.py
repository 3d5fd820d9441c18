"""Evidence about methods of inference: calibration on simulated rows, and comparison with the exact posterior."""
