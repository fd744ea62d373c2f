"""Images and boxes in, batches out."""
