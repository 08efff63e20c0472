"""Fine-tuning a student end to end, by MaskAlign's recipe out of timm's own parts. Open ``fine_tuning.py`` first."""
