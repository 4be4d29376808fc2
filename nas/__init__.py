"""Search for the most accurate network that holds a latency budget on a device.

This module imports nothing, so that the device worker starts on a board without torch.
"""

__version__ = "0.1.0"
