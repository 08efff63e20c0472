"""How good features are: labelled images, encoders that turn them into one vector each, and the measures."""
