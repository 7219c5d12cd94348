"""How each optimiser chooses the next point; ``bayes_merger.search.samplers`` lists them for users."""
