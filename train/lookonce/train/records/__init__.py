"""Records of a run for people: its configuration, metrics, and pictures of W and of the loss.

Open ``metrics.py`` first: each logged step is a line of metrics.jsonl, and goes to TensorBoard (``tensorboard_run.py``)
and Weights & Biases (``wandb_run.py``). ``run_record.py`` writes config.json, ``pictures.py`` draws.
"""
