"""Tasks: data, loss and metric, behind the protocol in `base`. Image classification is the only one."""
