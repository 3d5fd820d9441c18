"""Variational expectation maximisation: the guide and the model of what is observed, in turns.

    E-step: train the guide q(z | …) on the posterior of the program as it stands;
    M-step: raise Σ_rows Σ_i w_i log p_θ(y | x, z_i) over an adapter, draws and weights held fixed.

Both raise the same bound of the log evidence (Neal & Hinton 1998). The weights are those of
importance sampling, so that a guide that is not yet exact biases the M-step little.
"""
