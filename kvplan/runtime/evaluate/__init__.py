"""What compression costs in quality and time, measured on a real model: the protocol, the tasks and their runs."""
