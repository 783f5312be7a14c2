"""What a run consists of: the schema of scenario files, and those shipped."""
