"""Devices that run and time exported graphs: this machine, a machine reached over ssh, or an offline one."""
