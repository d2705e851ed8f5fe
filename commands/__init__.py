"""The command line's commands, one file a subject. Heavy imports are inside the functions."""
