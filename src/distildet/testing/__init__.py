"""Conformance checks for what others add to distildet."""

from distildet.testing.loss_check import check_loss

__all__ = ["check_loss"]
