"""What commands print of a stage's result."""
