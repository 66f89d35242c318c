"""Training of switchable models: objectives, precision schedules, a plain resumable loop."""
