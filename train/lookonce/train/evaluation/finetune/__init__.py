"""Fine-tuning a student end to end: MaskAlign's recipe, built from timm's parts.

Augmented images (``training_views.py``) flow into a timm classifier (``finetune_model.py``), which ``fit`` trains. Open
``fine_tuning.py`` first.
"""
