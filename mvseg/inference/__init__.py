"""From a trained model to answers: drawing (and later the predictor)."""
