"""The loss `hands-on-guidance`: features of every level, matched, measured and weighed."""

from distildet.losses.hands_on_guidance.loss import HandsOnGuidance

__all__ = ["HandsOnGuidance"]
