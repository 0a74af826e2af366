"""What can be set in each shipped task, validated before anything heavy is imported."""
