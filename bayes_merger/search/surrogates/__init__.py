"""Models of the score: Gaussian processes, noise, the posterior of the trials."""
