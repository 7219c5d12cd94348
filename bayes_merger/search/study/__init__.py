"""The study: storage, trials, the queue, workers and stopping rules."""
