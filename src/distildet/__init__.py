"""distildet turns any object detector into a small one that is as good as it can be."""
