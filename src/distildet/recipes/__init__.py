"""Recipes: plain YAML files that say what a run does, typed and checked before anything starts."""
