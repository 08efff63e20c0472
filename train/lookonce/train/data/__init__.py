"""From caches to batches: which samples a step sees, which patches are visible, and their pixels and targets.

Open ``training_input.py`` first, which wires the parts, then ``batch_reader.py``. ``sample_order.py`` is the order of a
run as a pure function of the step, ``caches/`` joins several caches, ``prefetch.py`` reads ahead.
``target_decoder.py`` and ``target_norm.py`` turn stored elements into targets on the device.
"""
