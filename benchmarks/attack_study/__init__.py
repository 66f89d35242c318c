"""The parts of ``attacks_real.py``: what travels, the victims, the attacks on them, and the figures."""
