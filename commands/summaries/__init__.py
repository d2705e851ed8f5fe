"""The text that commands print, made from what stages return."""
