"""Many runs and one table."""
