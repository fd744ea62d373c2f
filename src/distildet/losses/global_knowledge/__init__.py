"""The loss `global-knowledge`: prototypes, and what is compared with their help."""

from distildet.losses.global_knowledge.loss import GlobalKnowledge

__all__ = ["GlobalKnowledge"]
