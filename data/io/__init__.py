"""Files of data sets, read within stated limits."""
