"""Readers: one file per format, each giving `SampleSet`s for the splits "train" and "test"."""
