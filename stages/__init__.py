"""What happens, in order: teacher, heatmaps, student, evaluate. One file and one `run` a stage."""
