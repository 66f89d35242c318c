"""The parts of ``benchmarks/real_study.py``: scales, data, pretraining, and what is done to the pretrained model."""
