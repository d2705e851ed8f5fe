"""Readers: one file a format, each giving `SampleSet`s for the splits "train" and "test"."""
