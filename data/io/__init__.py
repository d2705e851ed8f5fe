"""Read images, labels, boxes and arrays from files, within stated size limits."""
