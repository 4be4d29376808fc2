"""Tasks: data, loss and metric. Image classification is the only one."""
