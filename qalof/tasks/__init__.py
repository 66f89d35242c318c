"""A task has the data, the loss and the metric that a model is tuned for."""
