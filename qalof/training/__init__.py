"""Training of switchable models: objectives, precision schedules, and a plain resumable loop."""
