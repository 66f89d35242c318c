"""Allocation gives each unit of a space one choice, such that the sum of damages is least within limits."""
