"""Pseudo labels: a teacher's detections, kept in a store and turned into targets."""
