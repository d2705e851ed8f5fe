"""Shared runtime: devices, processes, signals, files, text."""
