"""The commands of `fpd`, one file a subject. Heavy imports are inside the functions."""
