"""Finished models, trained or exported, on users' photographs and videos."""
