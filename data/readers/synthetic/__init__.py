"""Synthetic people: drawn images with exact joints."""
