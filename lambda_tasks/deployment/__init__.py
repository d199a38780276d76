"""What a project needs on AWS, derived from its settings and its tasks."""
