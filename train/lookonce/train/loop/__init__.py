"""The training loop: steps, learning rates, interrupts, and the diagnosis of runs that diverge.

Open ``trainer.py`` first; ``training_state.py`` contains what a step changes: parameters, moments, moving average.
"""
