"""What every room of the pipeline stands on: devices, processes, files, text."""
