"""Object detection: data, boxes, losses, and the metric."""
