"""Tasks: data, loss and metric of what a model is tuned for."""
