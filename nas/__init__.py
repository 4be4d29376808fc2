"""Hardware-aware neural architecture search: find the most accurate network within a latency budget on a device.

This module imports nothing, so that the device worker can start on a board without torch.
"""

__version__ = "0.1.0"
