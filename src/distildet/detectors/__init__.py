"""Detectors: one contract, one file a family, bundles on disk."""
